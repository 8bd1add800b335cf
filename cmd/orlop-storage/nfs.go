package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/csi/nfs"
	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/wire"
	"github.com/orlop-io/orlop/csi/volume"
)

func newNFSCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nfs",
		Short: "Use and serve NFS shares without a kernel's NFS",
		Long: `Use and serve shares of NFS version 3, in user space: no kernel support, no nfs-common, no rpcbind.

exports, ls and probe look at a server and need no privilege. mount and serve need root.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newNFSExportsCommand(), newNFSListCommand(), newNFSProbeCommand(), newNFSMountCommand(), newNFSServeCommand())
	return cmd
}

// nfsPatience bounds each call of the commands that look at a server.
const nfsPatience = 10 * time.Second

// nfsTarget is the share of a command line, and how to get at it.
type nfsTarget struct{ options []string }

func (n *nfsTarget) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringSliceVarP(&n.options, "options", "o", nil, "mount options, as in nfs(5): port, mountport, nconnect, ...")
}

func (n *nfsTarget) parse(share string) (nfs.MountOptions, error) {
	s, err := nfs.ParseShare(share)
	if err != nil {
		return nfs.MountOptions{}, err
	}
	return nfs.ParseMountOptions(s, n.options)
}

// use calls f with a client of the share.
func (n *nfsTarget) use(ctx context.Context, share string, f func(*client.Client) error) (err error) {
	o, err := n.parse(share)
	if err != nil {
		return err
	}
	o.Client.Patience = nfsPatience
	c, err := client.Mount(ctx, o.Client)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return f(c)
}

func newNFSExportsCommand() *cobra.Command {
	target := &nfsTarget{}
	cmd := &cobra.Command{
		Use:     "exports SERVER",
		Short:   "List the shares of a server",
		Example: "  orlop-storage nfs exports 10.0.0.5",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := target.parse(args[0] + ":/")
			if err != nil {
				return err
			}
			o.Client.Patience = nfsPatience
			exports, err := client.Exports(cmd.Context(), o.Client)
			if err != nil {
				return err
			}
			out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(out, "SHARE\tCLIENTS")
			for _, e := range exports {
				clients := strings.Join(e.Groups, ",")
				if clients == "" {
					clients = "everybody"
				}
				fmt.Fprintf(out, "%s\t%s\n", e.Path, clients)
			}
			return out.Flush()
		},
	}
	target.addFlags(cmd)
	return cmd
}

func newNFSListCommand() *cobra.Command {
	target := &nfsTarget{}
	cmd := &cobra.Command{
		Use:     "ls SERVER:/SHARE [PATH]",
		Short:   "List a directory of a share",
		Example: "  orlop-storage nfs ls 10.0.0.5:/data pvc-1234",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return target.use(cmd.Context(), args[0], func(c *client.Client) error {
				dir := c.Root()
				if len(args) > 1 {
					for _, name := range strings.Split(strings.Trim(path.Clean("/"+args[1]), "/"), "/") {
						if name == "" {
							continue
						}
						found, err := c.Lookup(cmd.Context(), dir, name)
						if err != nil {
							return fmt.Errorf("%s: %w", name, err)
						}
						dir = found.Object
					}
				}
				return listNFS(cmd.Context(), cmd.OutOrStdout(), c, dir)
			})
		},
	}
	target.addFlags(cmd)
	return cmd
}

// listNFS prints the entries of a directory, sorted.
func listNFS(ctx context.Context, to io.Writer, c *client.Client, dir wire.Handle) error {
	var all []wire.Entry
	var last wire.ReadDirRes
	for cookie := wire.Cookie(0); !last.EOF; {
		r, err := c.ReadDirPlus(ctx, dir, cookie, last.Verifier, 64<<10)
		if err != nil {
			return err
		}
		if len(r.Entries) == 0 && !r.EOF {
			return errors.New("the server's listing does not end")
		}
		for _, e := range r.Entries {
			cookie = e.Cookie
			if e.Name != "." && e.Name != ".." {
				all = append(all, e)
			}
		}
		last = r
	}
	slices.SortFunc(all, func(a, b wire.Entry) int { return strings.Compare(a.Name, b.Name) })
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "MODE\tOWNER\tSIZE\tMODIFIED\tNAME")
	for _, e := range all {
		if e.Attr == nil {
			fmt.Fprintf(out, "?\t?\t?\t?\t%s\n", e.Name)
			continue
		}
		fmt.Fprintf(out, "%v\t%d:%d\t%d\t%s\t%s\n", nfsMode(e.Attr), e.Attr.UID, e.Attr.GID, e.Attr.Size,
			e.Attr.Mtime.Time().UTC().Format(time.RFC3339), e.Name)
	}
	return out.Flush()
}

func nfsMode(a *wire.Attr) os.FileMode {
	mode := os.FileMode(a.Mode & 0o777)
	mode |= map[wire.FileType]os.FileMode{
		wire.TypeDirectory: os.ModeDir, wire.TypeSymlink: os.ModeSymlink, wire.TypeFIFO: os.ModeNamedPipe, wire.TypeSocket: os.ModeSocket,
		wire.TypeBlock: os.ModeDevice, wire.TypeCharacter: os.ModeDevice | os.ModeCharDevice,
	}[a.Type]
	return mode
}

func newNFSProbeCommand() *cobra.Command {
	target := &nfsTarget{}
	cmd := &cobra.Command{
		Use:   "probe SERVER:/SHARE",
		Short: "Say whether a share can be used, and how",
		Long: `Mount a share, ask what it can do, and print it. Nothing is written to it.

The exit status is 0 when the share can be mounted and read.`,
		Example: "  orlop-storage nfs probe 10.0.0.5:/data",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := time.Now()
			return target.use(cmd.Context(), args[0], func(c *client.Client) error {
				return probeNFS(cmd.Context(), cmd.OutOrStdout(), c, time.Since(start))
			})
		},
	}
	target.addFlags(cmd)
	return cmd
}

func probeNFS(ctx context.Context, to io.Writer, c *client.Client, mounted time.Duration) error {
	const ask = wire.AccessRead | wire.AccessLookup | wire.AccessModify | wire.AccessExtend | wire.AccessDelete
	info, err := c.FSInfo(ctx)
	if err != nil {
		return err
	}
	stat, err := c.FSStat(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	access, err := c.Access(ctx, c.Root(), ask)
	if err != nil {
		return err
	}
	took := time.Since(start)
	may := "no"
	if access.Access&(wire.AccessModify|wire.AccessExtend) == wire.AccessModify|wire.AccessExtend {
		may = "yes"
	}
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "share\t%s\n", c)
	fmt.Fprintf(out, "mounted in\t%v\n", mounted.Round(10*time.Microsecond))
	fmt.Fprintf(out, "one call takes\t%v\n", took.Round(10*time.Microsecond))
	fmt.Fprintf(out, "largest read, write\t%s, %s\n", volume.Bytes(int64(info.ReadMax)), volume.Bytes(int64(info.WriteMax)))
	fmt.Fprintf(out, "links, symbolic links\t%v, %v\n", info.Properties&wire.CanLink != 0, info.Properties&wire.CanSymlink != 0)
	fmt.Fprintf(out, "bytes in all, free\t%d, %d\n", stat.TotalBytes, stat.AvailBytes)
	fmt.Fprintf(out, "files in all, free\t%d, %d\n", stat.TotalFiles, stat.AvailFiles)
	fmt.Fprintf(out, "may user %d write to the root\t%s\n", os.Geteuid(), may)
	return out.Flush()
}
