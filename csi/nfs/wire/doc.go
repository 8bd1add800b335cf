// Package wire is the one codec of NFS version 3 that the client and the embedded server share: XDR (RFC 4506), ONC RPC
// with record marking and AUTH_SYS (RFC 5531), the MOUNT protocol and NFS (RFC 1813), and the port mapper's look-up
// (RFC 1833).
//
// Everything is bounded. A decoder reads from one record, whose size the reader of records limits; it allocates no
// more than a small multiple of the bytes that are there, whatever lengths they announce, and an announced length beyond
// the protocol's limit is an error. Names that could leave a directory (empty, ".", "..", with a slash or a NUL) are an
// error where the protocol says that they are names of entries.
//
// Data of reads and writes is never copied: decoded messages refer to the record they were decoded from.
package wire
