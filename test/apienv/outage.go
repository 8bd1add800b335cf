package apienv

import (
	"context"
	"fmt"
	"syscall"
	"testing"
)

const apiserver = "kube-apiserver"

// Pause stops the API server's process as it is (SIGSTOP): connections stay open, and nobody answers.
func (e *Env) Pause(t testing.TB) { e.signalAPIServer(t, syscall.SIGSTOP) }

// Resume lets a paused API server go on.
func (e *Env) Resume(t testing.TB) { e.signalAPIServer(t, syscall.SIGCONT) }

func (e *Env) signalAPIServer(t testing.TB, sig syscall.Signal) {
	t.Helper()
	p, err := e.process(apiserver)
	if err == nil {
		err = (*p).signal(sig)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Kill ends the API server without warning: its connections break, and nobody listens.
func (e *Env) Kill(t testing.TB) {
	t.Helper()
	e.signalAPIServer(t, syscall.SIGKILL)
	p, err := e.process(apiserver)
	if err != nil {
		t.Fatal(err)
	}
	<-(*p).done
}

// Restart starts an API server that was killed again, on the same port and with all that it had stored, and waits
// until it is ready.
func (e *Env) Restart(t testing.TB) {
	t.Helper()
	p, err := e.process(apiserver)
	if err != nil {
		t.Fatal(err)
	}
	old := *p
	again, err := startProcess(old.name, old.logPath, old.cmd.Path, old.cmd.Args[1:]...)
	if err != nil {
		t.Fatalf("apienv: start %s again: %v", apiserver, err)
	}
	*p = again
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	if err := e.ready(ctx, again, e.Config.Host+"/readyz"); err != nil {
		t.Fatalf("apienv: %s did not become ready again: %v; its last log lines:\n%s", apiserver, err, again.logTail())
	}
}

// process returns where the process of this name is kept.
func (e *Env) process(name string) (**process, error) {
	for i := range e.procs {
		if e.procs[i].name == name {
			return &e.procs[i], nil
		}
	}
	return nil, fmt.Errorf("apienv: there is no %s", name)
}
