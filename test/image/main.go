// Command image builds the container images of the demo and of the end-to-end tests from Debian's packages, on a
// machine that reaches no image registry:
//
//	go run ./test/image -kind mariadb -o mariadb.tar
//	bin/orlop images import mariadb.tar
//
// It writes an OCI archive whose bytes depend on nothing but this program and Debian's packages. An archive that
// this very program has written is left as it is, so that calling it again costs nothing; remove the file to get
// Debian's latest packages.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/orlop-io/orlop/deploy/image/oci"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, messages io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(messages)
	out := flags.String("o", "", "write the OCI archive to this `FILE` (required)")
	kind := flags.String("kind", "mariadb", "which image to build: "+strings.Join(kindNames(), ", "))
	if err := flags.Parse(args); err != nil {
		return flag.ErrHelp // the flag set has said why
	}
	spec, ok := kinds[*kind]
	if !ok {
		return fmt.Errorf("no image %q: give -kind one of %s", *kind, strings.Join(kindNames(), ", "))
	}
	if *out == "" || flags.NArg() > 0 {
		flags.Usage()
		return flag.ErrHelp
	}
	if inputs, err := oci.ReadInputs(*out); err == nil && inputs == spec.fingerprint() {
		_, err := fmt.Fprintf(messages, "%s is up to date\n", *out)
		return err
	}
	if err := build(ctx, spec, *out); err != nil {
		return fmt.Errorf("build %s: %w", spec.name, err)
	}
	_, err := fmt.Fprintf(messages, "wrote %s to %s\n", spec.name, *out)
	return err
}

// build writes the image to path. It appears there whole or not at all.
func build(ctx context.Context, spec imageSpec, path string) (err error) {
	layer, err := os.CreateTemp(filepath.Dir(path), ".layer-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, layer.Close(), os.Remove(layer.Name())) }()
	if err := writeLayer(ctx, spec, layer); err != nil {
		return err
	}

	archive, err := os.CreateTemp(filepath.Dir(path), ".archive-*")
	if err != nil {
		return err
	}
	err = errors.Join(oci.Write(archive, spec.image(), layer), archive.Chmod(0o644), archive.Close())
	if err == nil {
		err = os.Rename(archive.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(archive.Name()))
	}
	return err
}

func kindNames() []string {
	var names []string
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// arch is the architecture of the image: Debian's packages are those of the machine.
const arch = runtime.GOARCH
