package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/orlop-io/orlop/cluster"
)

// defaultDataDir is where a cluster lives unless --data-dir or ORLOP_DATA_DIR says otherwise.
const defaultDataDir = "/var/lib/orlop"

// options are common to all commands.
type options struct{ dataDir string }

func newRootCommand() *cobra.Command {
	// Kubernetes' packages put flags of theirs (--version) into the global set, which cobra would show as ours.
	pflag.CommandLine = pflag.NewFlagSet(os.Args[0], pflag.ContinueOnError)
	o := &options{}
	root := &cobra.Command{
		Use:   "orlop",
		Short: "A complete Kubernetes on this machine, with storage that works",
		Long: `Orlop runs a complete single-machine Kubernetes: upstream's components, with local volumes
whose size is enforced. Start with

  orlop up

All that a cluster is lies in its data directory. Several can run side by side, each with
a --data-dir of its own and --netns.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	def := os.Getenv("ORLOP_DATA_DIR")
	if def == "" {
		def = defaultDataDir
	}
	root.PersistentFlags().StringVar(&o.dataDir, "data-dir", def, "directory of the cluster (environment: ORLOP_DATA_DIR)")
	root.AddCommand(
		newUpCommand(o), newDownCommand(o), newStatusCommand(o), newLogsCommand(o),
		newKubectlCommand(o), newImagesCommand(o), newConfigCommand(o), newVersionCommand(), newSuperviseCommand(o),
	)
	return root
}

// layout resolves the data directory and finds the programs, which lie beside this one.
func (o *options) layout() (cluster.Layout, error) {
	if o.dataDir == "" {
		return cluster.Layout{}, errors.New("--data-dir is empty")
	}
	dir, err := filepath.Abs(o.dataDir)
	if err != nil {
		return cluster.Layout{}, err
	}
	if dir, err = realPath(dir); err != nil {
		return cluster.Layout{}, fmt.Errorf("data directory: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return cluster.Layout{}, err
	}
	l := cluster.Layout{DataDir: dir, BinDir: filepath.Dir(self)}
	if state, err := cluster.ReadState(dir); err == nil {
		l.ID, l.Node = state.ID, state.Node
	}
	return l, nil
}

// realPath resolves the symbolic links of an absolute path whose last elements need not exist yet: the mount table knows
// real paths alone, and the first start must not give the cluster another path than the later ones.
func realPath(path string) (string, error) {
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if _, lerr := os.Lstat(path); lerr == nil || !errors.Is(err, fs.ErrNotExist) {
			return "", err // a link into nothing, or a path that cannot be walked
		}
		path, rest = filepath.Dir(path), filepath.Join(filepath.Base(path), rest)
	}
}

func requireRoot() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("this needs root, for mounts, cgroups and network namespaces: run it with sudo")
	}
	return nil
}
