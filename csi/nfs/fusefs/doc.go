// Package fusefs is a file system over an NFS version 3 share, in user space: client's calls behind the kernel's FUSE.
//
// Consistency is NFS' own, close to open: whoever opens a file sees what was written before the last close elsewhere.
// Attributes and names are believed for a settable time. Writes are gathered and sent in the background, unstable; fsync
// and close send what is left, COMMIT it, and send it again where the server's write verifier says that it was lost. Until
// then the data is kept. A write that fails is reported by the next write, fsync or close, once.
//
// The kernel checks modes (default_permissions) and the server checks every call again, as the user, group and
// supplementary groups of the process that makes it. Locks are the kernel's own: they hold on this node alone.
//
// While the server is away, calls wait. A process that waits can be killed: the kernel tells of the first signal, and
// from then on the file system looks whether the process has a fatal one pending. Other signals do not interrupt a call,
// as with a kernel's NFS.
package fusefs
