package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the auth plugins that kubeconfigs may name
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
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
		RunE: func(_ *cobra.Command, args []string) error {
			return runKubectl(o, args)
		},
	}
}

func runKubectl(o *options, args []string) error {
	// cobra parses no flags for this command and hands over those before its name as well.
	if len(args) > 0 {
		if dir, ok := strings.CutPrefix(args[0], "--data-dir="); ok {
			o.dataDir, args = dir, args[1:]
		} else if args[0] == "--data-dir" {
			if len(args) < 2 {
				return errors.New("--data-dir needs a directory")
			}
			o.dataDir, args = args[1], args[2:]
		}
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
	if err := os.Setenv("KUBECONFIG", l.Kubeconfig()); err != nil {
		return err
	}
	// From here on this process is kubectl, as upstream's main would have it.
	os.Args = append([]string{"kubectl"}, args...)
	_, _ = logs.GlogSetter(kubectlcmd.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectlcmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
	return nil
}
