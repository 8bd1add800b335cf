package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

const (
	portmapPort = 111
	// mountPatience bounds the calls that look a share up, whatever the share's own patience is.
	mountPatience = 30 * time.Second
)

// mount returns the handle of the share's root.
func mount(ctx context.Context, o *Options) (wire.Handle, error) {
	var res wire.MntRes
	if err := callMount(ctx, o, wire.MountMnt, &wire.PathArgs{Path: o.Share}, &res); err != nil {
		return "", err
	}
	switch {
	case res.Status == wire.ErrAcces || res.Status == wire.ErrPerm:
		return "", fmt.Errorf("the server's export list does not let this client in: %w", res.Status)
	case res.Status != wire.OK:
		return "", res.Status
	case len(res.Flavours) > 0 && !slices.Contains(res.Flavours, wire.AuthSysFlavour):
		return "", fmt.Errorf("the server wants another authentication than AUTH_SYS (it offers %v)", res.Flavours)
	}
	return res.Root, nil
}

// Exports returns the shares of a server; Options need no Share.
func Exports(ctx context.Context, options Options) ([]wire.Export, error) {
	o := options.withDefaults()
	var res wire.ExportRes
	if err := callMount(ctx, o, wire.MountExport, wire.Void{}, &res); err != nil {
		return nil, fmt.Errorf("list the shares of %s: %w", o.Server, err)
	}
	return res.Exports, nil
}

// callMount makes one call of the MOUNT protocol.
func callMount(ctx context.Context, o *Options, proc uint32, args, results wire.Message) error {
	port, err := mountPort(ctx, o)
	if err != nil {
		return err
	}
	head := wire.CallHeader{Program: wire.ProgramMount, Version: wire.VersionMount, Proc: proc, Auth: o.Auth}
	return once(ctx, o, port, head, args, results)
}

// mountPort finds the port of the MOUNT protocol.
func mountPort(ctx context.Context, o *Options) (int, error) {
	if o.MountPort != 0 {
		return o.MountPort, nil
	}
	// A server that serves it on NFS' own port needs no port mapper; ours does.
	null := wire.CallHeader{Program: wire.ProgramMount, Version: wire.VersionMount, Proc: wire.MountNull}
	err := once(ctx, o, o.Port, null, wire.Void{}, wire.Void{})
	if err == nil {
		return o.Port, nil
	}
	var refused *net.OpError
	if errors.As(err, &refused) && refused.Op == "dial" || ctx.Err() != nil {
		return 0, err
	}
	var res wire.PortRes
	err = once(ctx, o, portmapPort, wire.CallHeader{
		Program: wire.ProgramPortmap, Version: wire.VersionPortmap, Proc: wire.PortmapGetPort,
	}, &wire.PortArgs{Program: wire.ProgramMount, Version: wire.VersionMount, Protocol: wire.ProtocolTCP}, &res)
	switch {
	case err != nil:
		return 0, fmt.Errorf("ask the port mapper for the MOUNT protocol (or give mountPort): %w", err)
	case res.Port == 0 || res.Port > 65535:
		return 0, errors.New("the server's port mapper knows no MOUNT protocol, version 3: it may speak NFS version 4 alone")
	}
	return int(res.Port), nil
}

// once makes one call over a connection of its own. It does not wait for a server that is away.
func once(ctx context.Context, o *Options, port int, head wire.CallHeader, args, results wire.Message) (err error) {
	patience := mountPatience
	if o.Patience > 0 {
		patience = min(patience, o.Patience)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, ErrTimeout)
	defer cancel()
	ch := newChannel(o, o.address(port))
	defer func() { err = errors.Join(err, ch.close()) }()
	e := encode(&head, args)
	record, err := ch.attempt(ctx, head.XID, e)
	if ctx.Err() != nil {
		return ended(ctx, err)
	}
	if err != nil {
		return err
	}
	return decode(record, results)
}
