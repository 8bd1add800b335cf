// Package osthread runs functions on operating-system threads of their own.
//
// Some of what the kernel knows belongs to a thread, not to a process: the network namespace, and the
// parent-death signal of children, which is sent when the thread that forked them ends. Go moves goroutines between
// threads, so both need a thread that runs one function alone and ends with it.
package osthread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Start runs fn on a thread that is locked to it and ends with it, and returns at once. Whatever fn does to its
// thread is gone with it.
//
// The thread is never the process's first: the runtime cannot end that one but parks it as it is, and /proc/self/net
// of the whole process would show its network namespace ever after.
func Start(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		other := make(chan struct{})
		go func() {
			runtime.LockOSThread() // on another thread for certain: the first one is held by the goroutine above
			close(other)
			fn()
		}()
		<-other
		runtime.UnlockOSThread()
	}()
}

// Run is Start which waits for fn and returns its error.
func Run(fn func() error) error {
	result := make(chan error, 1)
	Start(func() { result <- fn() })
	return <-result
}
