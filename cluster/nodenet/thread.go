package nodenet

import "github.com/orlop-io/orlop/cluster/osthread"

// Enter is [Enter] with the network's own namespace.
func (n *Network) Enter(fn func() error) error { return Enter(n.NetnsPath, fn) }

// Enter runs fn inside the network namespace mounted on netnsPath, on an operating system thread that has
// joined it with setns(2), and returns fn's error. The thread is locked to its goroutine and never unlocked, so
// the runtime ends it with the goroutine: no other code of this process can ever find itself in the namespace.
// Sockets that fn opens stay in the namespace and may be used anywhere; goroutines that fn starts are NOT
// inside.
//
// A process started from fn is in the namespace. Give it no Pdeathsig: the kernel sends that signal when the
// *thread* that forked the process ends, which is when Enter returns. The supervisor forks its children from a
// thread that lives as long as they do.
func Enter(netnsPath string, fn func() error) error {
	return osthread.Run(func() error {
		if err := osthread.JoinNetns(netnsPath); err != nil {
			return err
		}
		return fn()
	})
}
