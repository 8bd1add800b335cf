// Package osthread runs functions on operating-system threads of their own.
//
// Some of what the kernel knows belongs to a thread, not to a process: the network namespace, and the
// parent-death signal of children, which is sent when the thread that forked them ends. Go moves goroutines between
// threads, so both need a thread that runs one function alone and ends with it.
package osthread

import (
	"errors"
	"fmt"
	"os"
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

// JoinNetns moves the calling thread into the network namespace at path. Call it on a thread that Start or Run made: any
// other goes back to the runtime, which runs other goroutines on it.
func JoinNetns(path string) error {
	ns, err := os.Open(path)
	if err == nil {
		err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("setns: %w: no network namespace is mounted there", err)
		}
		err = errors.Join(err, ns.Close())
	}
	if err != nil {
		return fmt.Errorf("entering network namespace %s: %w", path, err)
	}
	return nil
}
