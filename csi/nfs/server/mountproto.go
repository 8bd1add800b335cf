package server

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// mnt gives the handle of a share, or of a directory in it.
func (c *call) mnt(a *wire.PathArgs) wire.Message {
	x, below := c.share(a.Path)
	switch {
	case x == nil:
		return &wire.MntRes{Status: wire.ErrNoEnt}
	case !x.allows(c.client):
		return &wire.MntRes{Status: wire.ErrAcces}
	}
	fd, err := unix.Openat2(int(x.dir.Fd()), below, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return &wire.MntRes{Status: wire.StatusOf(err)}
	}
	defer closeFD(fd)
	h, err := c.handle(x, fd, "")
	if err != nil {
		return &wire.MntRes{Status: wire.StatusOf(err)}
	}
	return &wire.MntRes{Root: h, Flavours: []uint32{wire.AuthSysFlavour}}
}

// share finds the share that a path is in, the longest where several are, and the path in it.
func (s *Server) share(path string) (x *export, below string) {
	for _, e := range s.exports {
		rest, ok := strings.CutPrefix(path, e.Path)
		if e.Path == "/" {
			rest, ok = "/"+strings.TrimPrefix(path, "/"), strings.HasPrefix(path, "/")
		}
		if !ok || (rest != "" && rest[0] != '/') || (x != nil && len(e.Path) < len(x.Path)) {
			continue
		}
		if x, below = e, strings.Trim(rest, "/"); below == "" {
			below = "."
		}
	}
	return x, below
}

// dump lists nobody: the server keeps nothing of its clients.
func (c *call) dump(*nothing) wire.Message { return &wire.ExportRes{} }

func (c *call) umnt(*wire.PathArgs) wire.Message { return wire.Void{} }

func (c *call) listExports(*nothing) wire.Message {
	res := &wire.ExportRes{}
	for _, x := range c.exports {
		e := wire.Export{Path: x.Path}
		for _, p := range x.Clients {
			e.Groups = append(e.Groups, p.String())
		}
		res.Exports = append(res.Exports, e)
	}
	return res
}

// getPort answers for a port mapper that everything is on one port, over TCP.
func (c *call) getPort(a *wire.PortArgs) wire.Message {
	nfs := a.Program == wire.ProgramNFS && a.Version == wire.VersionNFS
	mount := a.Program == wire.ProgramMount && a.Version == wire.VersionMount
	if (nfs || mount) && a.Protocol == wire.ProtocolTCP {
		return &wire.PortRes{Port: uint32(c.config.Port)}
	}
	return &wire.PortRes{}
}
