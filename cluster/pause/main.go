// Command pause is the process of a pod's sandbox: it holds the pod's namespaces open while the containers
// come and go, and is PID 1 of the pods that share a process namespace.
//
// It exits with status 0 on SIGTERM and SIGINT and survives every other signal that can be survived. One runs
// in each pod, so it imports nothing that costs memory.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// PID 1 inherits the orphans of its namespace. The kernel itself reaps the children of a process that
	// ignores SIGCHLD (wait(2), "POSIX.1-2001"), so no zombie waits for this process to be scheduled. The
	// remaining signals would end a Go program, where PID 1 by default ignores them (pid_namespaces(7)).
	signal.Ignore()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
