package nodenet

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Enter runs fn inside the network namespace, on an operating system thread that has joined it with setns(2),
// and returns fn's error. The thread is locked to the goroutine and never unlocked, so the runtime ends it with
// the goroutine: no other code of this process can ever find itself in the namespace. Sockets that fn opens stay
// in the namespace and may be used anywhere; goroutines that fn starts are NOT inside.
//
// Do not start long-lived children with Pdeathsig from fn: the kernel sends that signal when the *thread* that
// forked them ends, which is when Enter returns. [Network.Thread] is for them.
func (n *Network) Enter(fn func() error) error {
	return runOnThrowawayThread(func() error {
		if err := n.join(); err != nil {
			return err
		}
		return fn()
	})
}

// join moves the calling thread into the namespace.
func (n *Network) join() error {
	ns, err := os.Open(n.NetnsPath)
	if err != nil {
		return fmt.Errorf("entering network namespace %s: %w", n.Name, err)
	}
	err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: no namespace is mounted on %s", err, n.NetnsPath)
	}
	if err = errors.Join(err, ns.Close()); err != nil {
		return fmt.Errorf("entering network namespace %s: %w", n.Name, err)
	}
	return nil
}

// Thread is an operating system thread that stays inside a network namespace until it is closed. Processes
// started from [Thread.Do] are in the namespace, and with Pdeathsig set they die with the thread, that is with
// this process or at [Thread.Close].
type Thread struct {
	work chan func()
	done chan struct{}
	once sync.Once
}

// Thread starts a thread inside the namespace. It needs Close.
func (n *Network) Thread() (*Thread, error) {
	t := &Thread{work: make(chan func()), done: make(chan struct{})}
	started := make(chan error, 1)
	startOnOwnThread(func() {
		defer close(t.done)
		err := n.join()
		started <- err
		if err != nil {
			return
		}
		for fn := range t.work {
			fn()
		}
	})
	if err := <-started; err != nil {
		return nil, err
	}
	return t, nil
}

// Do runs fn on the thread and returns its error. Calls run one after the other, so fn should be short: start
// a process, open a socket. It must not be called after Close.
func (t *Thread) Do(fn func() error) error {
	result := make(chan error, 1)
	t.work <- func() { result <- fn() }
	return <-result
}

// Close ends the thread and waits for it. Children started with Pdeathsig get their signal now.
func (t *Thread) Close() error {
	t.once.Do(func() { close(t.work) })
	<-t.done
	return nil
}

func runOnThrowawayThread(fn func() error) error {
	result := make(chan error, 1)
	startOnOwnThread(func() { result <- fn() })
	return <-result
}

// startOnOwnThread runs fn on a thread that is locked to it and ends with it.
//
// That thread must not be the process's first: the runtime cannot end it but parks it as it is, and
// /proc/self/net of the whole process shows the first thread's namespace ever after.
func startOnOwnThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		other := make(chan struct{})
		go func() {
			runtime.LockOSThread() // on another thread for certain: the first one is held below
			close(other)
			fn()
		}()
		<-other
		runtime.UnlockOSThread()
	}()
}
