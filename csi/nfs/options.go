// Package nfs is what all parts of Orlop's NFS have in common: how a share and its mount options are written.
//
// Below it, wire is the protocol's codec, client and server are its two sides, and fusefs is the userspace mount.
package nfs

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/fusefs"
)

// Share is a directory that a server exports.
type Share struct{ Server, Path string }

// ParseShare reads a share as mount(8) writes it: server:/path, with the address of IP version 6 in brackets.
func ParseShare(s string) (Share, error) {
	server, path, ok := strings.Cut(s, ":/")
	server = strings.TrimSuffix(strings.TrimPrefix(server, "["), "]")
	if !ok || server == "" || strings.ContainsAny(server, "/ ") || strings.HasPrefix(path, "/") {
		return Share{}, fmt.Errorf("%q names no NFS share: write server:/path", s)
	}
	return Share{server, "/" + path}, nil
}

// String returns the share as mount(8) writes it.
func (s Share) String() string {
	if strings.Contains(s.Server, ":") {
		return "[" + s.Server + "]:" + s.Path
	}
	return s.Server + ":" + s.Path
}

// Defaults of nfs(5) over TCP.
const (
	defaultTimeo   = 600 // tenths of a second
	defaultRetrans = 2
	maxConnections = 16
)

// MountOptions are what the options of a mount mean to the userspace client.
type MountOptions struct {
	Client client.Options
	FS     fusefs.Options
}

// ParseMountOptions reads mount options with the names and meanings of nfs(5), as far as the userspace client has a use
// for them. What it cannot do is an error, as are unknown options: none is dropped in silence.
func ParseMountOptions(share Share, options []string) (MountOptions, error) {
	m := MountOptions{Client: client.Options{Server: share.Server, Share: share.Path}}
	soft, timeo, retrans := false, defaultTimeo, defaultRetrans
	for _, option := range options {
		name, value, _ := strings.Cut(strings.TrimSpace(option), "=")
		number := func(to *int, least, most int) error {
			n, err := strconv.Atoi(value)
			if err != nil || n < least || n > most {
				return fmt.Errorf("mount option %q: give a number from %d to %d", option, least, most)
			}
			*to = n
			return nil
		}
		var err error
		switch name {
		case "", "rw", "hard", "tcp", "nolock", "nodev", "nosuid", "relatime", "noatime", "nodiratime", "_netdev":
			// What is so anyway: locks are local, times are the server's, devices and set-user-ID bits have no effect.
		case "ro":
			m.FS.ReadOnly = true
		case "soft":
			soft = true
		case "timeo":
			err = number(&timeo, 1, 36000)
		case "retrans":
			err = number(&retrans, 0, 100)
		case "nconnect":
			err = number(&m.Client.Connections, 1, maxConnections)
		case "port":
			err = number(&m.Client.Port, 1, 65535)
		case "mountport":
			err = number(&m.Client.MountPort, 1, 65535)
		case "noac":
			m.FS.AttrTimeout = -1
		case "actimeo":
			var seconds int
			if err = number(&seconds, 0, 86400); err == nil {
				m.FS.AttrTimeout = time.Duration(seconds) * time.Second
				if seconds == 0 {
					m.FS.AttrTimeout = -1
				}
			}
		case "vers", "nfsvers":
			if value != "3" && value != "3.0" {
				err = fmt.Errorf("mount option %q: the userspace client speaks version 3 alone", option)
			}
		case "proto":
			if value != "tcp" {
				err = fmt.Errorf("mount option %q: the userspace client speaks TCP alone", option)
			}
		case "sec":
			if value != "sys" {
				err = fmt.Errorf("mount option %q: the userspace client knows sec=sys alone", option)
			}
		default:
			err = fmt.Errorf("mount option %q is not known to the userspace client", option)
		}
		if err != nil {
			return MountOptions{}, err
		}
	}
	m.Client.Retransmit = time.Duration(timeo) * time.Second / 10
	if soft {
		m.Client.Patience = m.Client.Retransmit * time.Duration(retrans+1)
	}
	return m, nil
}
