package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the auth plugins that kubeconfigs may name
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	"github.com/orlop-io/orlop/cluster"
)

func newKubectlCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--data-dir DIR] ARGS...",
		Short: "Run upstream's kubectl against this cluster",
		Long: `Run upstream's kubectl with this cluster's administrator kubeconfig.

Everything after "kubectl" is kubectl's own, but for a --data-dir that comes first.
Outside of orlop the same is had with any kubectl: export KUBECONFIG=<data-dir>/kubeconfig.`,
		Example: `  orlop kubectl get nodes
  orlop kubectl --data-dir /srv/orlop get pods -A`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runKubectl(cmd.Context(), o, args)
		},
	}
}

// takeDataDir takes a --data-dir off the front of the arguments; nil when there is none. cobra parses no flags for the
// command and hands over those before its name as well.
func takeDataDir(args []string) (dir *string, rest []string, err error) {
	if len(args) == 0 {
		return nil, args, nil
	}
	if dir, ok := strings.CutPrefix(args[0], "--data-dir="); ok {
		return &dir, args[1:], nil
	}
	if args[0] != "--data-dir" {
		return nil, args, nil
	}
	if len(args) < 2 {
		return nil, nil, errors.New("--data-dir needs a directory")
	}
	return &args[1], args[2:], nil
}

func runKubectl(ctx context.Context, o *options, args []string) error {
	dir, args, err := takeDataDir(args)
	if err != nil {
		return err
	}
	if dir != nil {
		o.dataDir = *dir
	}
	l, err := o.layout()
	if err != nil {
		return err
	}
	if _, err := os.Stat(l.Kubeconfig()); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s does not exist: no cluster was started in %s; run 'orlop up' first", l.Kubeconfig(), l.DataDir)
	} else if err != nil {
		return err
	}
	// Without its namespace the address of such a cluster is nobody's, or somebody else's out on the network.
	if state, err := cluster.ReadState(l.DataDir); err == nil && state.Netns {
		if err := requireRunning(ctx, l); err != nil {
			return err
		}
	}
	if err := os.Setenv("KUBECONFIG", l.Kubeconfig()); err != nil {
		return err
	}
	// From here on this process is kubectl, as upstream's main would have it.
	// Ctrl-C ends it, where it ends a context of orlop's other commands.
	signal.Reset()
	os.Args = append([]string{"kubectl"}, args...)
	_, _ = logs.GlogSetter(kubectlcmd.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectlcmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
	return nil
}
