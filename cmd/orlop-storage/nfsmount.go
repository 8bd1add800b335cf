package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/fusefs"
	"github.com/orlop-io/orlop/csi/nfs/server"
	"github.com/orlop-io/orlop/csi/nfs/wire"
)

func newNFSMountCommand() *cobra.Command {
	target := &nfsTarget{}
	cmd := &cobra.Command{
		Use:   "mount SERVER:/SHARE DIRECTORY",
		Short: "Mount a share by FUSE, until it is unmounted or this process stops",
		Long: `Mount a share on a directory by FUSE, where the kernel has no NFS or nobody wants it.

It stays in the foreground. Unmount the directory, or send SIGTERM, to end it. While the server is
away programs wait, and can be killed; with -o soft they get an error after timeo and retrans.
Locks hold on this machine alone.`,
		Example: "  orlop-storage nfs mount -o nconnect=4 10.0.0.5:/data /mnt",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx := cmd.Context()
			o, err := target.parse(args[0])
			if err != nil {
				return err
			}
			c, err := client.Mount(ctx, o.Client)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			mounted, err := fusefs.Mount(ctx, c, args[1], o.FS)
			if err != nil {
				return err
			}
			klog.FromContext(ctx).Info("Mounted", "share", c, "directory", args[1])
			unmounted := make(chan error, 1)
			stop := context.AfterFunc(ctx, func() { unmounted <- mounted.Unmount() })
			mounted.Wait()
			klog.FromContext(ctx).Info("Unmounted", "share", c, "reads", c.Calls(wire.ProcRead), "writes", c.Calls(wire.ProcWrite),
				"commits", c.Calls(wire.ProcCommit), "lookups", c.Calls(wire.ProcLookup), "attributes", c.Calls(wire.ProcGetAttr))
			if stop() {
				return nil
			}
			return <-unmounted
		},
	}
	target.addFlags(cmd)
	addLogFlags(cmd)
	return cmd
}

// nfsServe is the server of a command line.
type nfsServe struct {
	exports []string
	clients []string
	listen  string
	keyFile string
	portmap bool
	squash  bool
	async   bool
}

func newNFSServeCommand() *cobra.Command {
	s := &nfsServe{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve directories by NFS version 3",
		Long: `Serve directories to clients of NFS version 3, over TCP, on one port.

What a client may do is decided by the modes of the files and the user it says it is, as ever with
NFS: let in only machines that you trust. --client is needed for that reason.

File handles survive restarts as long as the key file stays.`,
		Example: "  orlop-storage nfs serve --export /data=/srv/data --client 10.0.0.0/24 --key-file /etc/orlop-nfs.key",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&s.exports, "export", nil, "share and the directory it is, as in /data=/srv/data; repeat for more (required)")
	f.StringSliceVar(&s.clients, "client", nil, "address or network that may use the shares, as in 10.0.0.0/24 (required)")
	f.StringVar(&s.listen, "listen", fmt.Sprintf(":%d", client.DefaultPort), "address to serve on")
	f.StringVar(&s.keyFile, "key-file", "", "file with the key that seals file handles; made when missing (required)")
	f.BoolVar(&s.portmap, "portmap", false, "answer on port 111 too, for clients that are not told the ports")
	f.BoolVar(&s.squash, "root-squash", true, "make the clients' root nobody")
	f.BoolVar(&s.async, "async", false, "answer changes of directories before they are on disk: faster, and lost when the machine crashes")
	addLogFlags(cmd)
	return cmd
}

func (s *nfsServe) config() (server.Config, error) {
	var clients []netip.Prefix
	for _, c := range s.clients {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			a, errAddr := netip.ParseAddr(c)
			if errAddr != nil {
				return server.Config{}, fmt.Errorf("--client %q: give an address or a network, as in 10.0.0.0/24", c)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		clients = append(clients, p)
	}
	if len(clients) == 0 {
		return server.Config{}, errors.New("--client is required: say which machines may use the shares")
	}
	var config server.Config
	for _, e := range s.exports {
		share, dir, ok := strings.Cut(e, "=")
		if !ok {
			return server.Config{}, fmt.Errorf("--export %q: write SHARE=DIRECTORY, as in /data=/srv/data", e)
		}
		config.Exports = append(config.Exports, server.Export{
			Path: share, Directory: dir, Clients: clients, RootSquash: s.squash, Async: s.async,
		})
	}
	if len(config.Exports) == 0 {
		return server.Config{}, errors.New("--export is required: say what to share, as in /data=/srv/data")
	}
	if s.keyFile == "" {
		return server.Config{}, errors.New("--key-file is required: without it the clients' file handles would be stale after a restart")
	}
	var err error
	config.Key, err = nfsKey(s.keyFile)
	return config, err
}

// nfsKey reads the key that seals handles, and makes it where there is none.
func nfsKey(path string) (_ []byte, err error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) != server.KeySize {
		return nil, fmt.Errorf("%s has %d bytes and is no key of %d: give another --key-file", path, len(key), server.KeySize)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, server.KeySize)
	_, _ = rand.Read(key) // never fails
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(key)
	return key, errors.Join(err, f.Sync(), f.Close())
}

func (s *nfsServe) run(ctx context.Context) (err error) {
	config, err := s.config()
	if err != nil {
		return err
	}
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", s.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	config.Port = uint16(listener.Addr().(*net.TCPAddr).Port)
	listeners := []net.Listener{listener}
	if s.portmap {
		host, _, _ := net.SplitHostPort(s.listen) // it was listened on
		portmap, err := listen.Listen(ctx, "tcp", net.JoinHostPort(host, "111"))
		if err != nil {
			return errors.Join(fmt.Errorf("--portmap: %w", err), listener.Close())
		}
		listeners = append(listeners, portmap)
	}
	nfs, err := server.New(config)
	if err != nil {
		for _, l := range listeners {
			err = errors.Join(err, l.Close())
		}
		return err
	}
	defer func() { err = errors.Join(err, nfs.Close()) }()
	klog.FromContext(ctx).Info("Serving NFS version 3", "address", listener.Addr(), "exports", s.exports, "clients", s.clients)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			ended <- nfs.Serve(ctx, l)
			cancel()
		}()
	}
	for range listeners {
		err = errors.Join(err, <-ended)
	}
	return err
}
