// Command orlop-storage is Orlop's storage without the bundled cluster: the CSI drivers and the controllers, for any
// Kubernetes. It links nothing of the control plane.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/nodump"
)

// version is stamped by the linker.
var version = "dev"

// gcPercent trades a little CPU time for memory: the program is idle most of the time, and runs on every node.
const gcPercent = 40

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// Secrets pass through: those of storage backends, and what workloads are rolled out for.
	if err := nodump.Protect(); err != nil {
		fmt.Fprintf(os.Stderr, "orlop-storage: %v\n", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	klog.Flush()
	if err != nil {
		fmt.Fprintf(os.Stderr, "orlop-storage: %v\n", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "orlop-storage",
		Short: "Volumes for Kubernetes from a node's own disk",
		Long: `orlop-storage gives the pods of a Kubernetes cluster volumes from the disks of its nodes,
through the Container Storage Interface (CSI).

Run "orlop-storage node" on every node that has disk space to give, and "orlop-storage controllers"
once for the cluster.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
	}
	cmd.AddCommand(newNodeCommand(), newControllersCommand(), newNFSCommand(), newVersionCommand())
	return cmd
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "orlop-storage %s (%s)\n", version, runtime.Version())
			return err
		},
	}
}
