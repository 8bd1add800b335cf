// Package client is a userspace client of NFS version 3: no mount, no privilege, no kernel support.
//
// Calls are pipelined over several connections, and everything honours its context. A connection that breaks, or whose
// server does not answer in time, is replaced, and the calls under way are sent again with the same transaction ID, so that a server
// with a duplicate request cache answers what it has done instead of doing it twice. A Client with a Patience gives calls
// up after that time (a soft mount); without, they wait until their context ends (a hard mount).
package client
