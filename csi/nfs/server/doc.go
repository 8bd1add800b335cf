// Package server is a userspace server of NFS version 3, with the MOUNT protocol on the same port.
//
// It is honest about what it answers. File handles are the kernel's own (name_to_handle_at), sealed with a key, so that
// they survive every restart and cannot be made up: a handle opens only what the server gave it for. Unstable writes are
// the kernel's; COMMIT, DATA_SYNC and FILE_SYNC are fsync and its kin; the write verifier is new with each start, and
// after every failed sync, for the kernel then drops what it could not write. Changes of directories are synced before they
// are answered, unless the export says Async. Calls that may not be done twice are answered from a cache when they are
// sent twice.
//
// What a caller may do is decided by the kernel: each call runs on a thread that has taken on the caller's user, group and
// supplementary groups for the file system (setfsuid and so on), and the user root only where the export does not squash it.
//
// It needs root (CAP_DAC_READ_SEARCH above all), and a file system that has handles: ext4, XFS, Btrfs and tmpfs do.
package server
