// Command image puts orlop-storage into a container image, for clusters of other makes:
//
//	go run ./deploy/image -name registry.example.com/orlop-storage:v1 -o orlop-storage.tar bin/orlop-storage
//
// The image holds that one program, which must be linked statically, and nothing else. It is written as an OCI archive,
// for `skopeo copy oci-archive:…` or `ctr images import`. The same program is the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/orlop-io/orlop/deploy/image/oci"
)

func main() {
	err := run(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, messages io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(messages)
	out := flags.String("o", "", "write the OCI archive to this `FILE` (required)")
	name := flags.String("name", "", "the image's full name and tag (required)")
	if err := flags.Parse(args); err != nil {
		return flag.ErrHelp // the flag set has said why
	}
	if *out == "" || *name == "" || flags.NArg() != 1 {
		_, err := fmt.Fprintln(messages, "usage: image -name NAME:TAG -o FILE PROGRAM")
		flags.PrintDefaults()
		return errors.Join(flag.ErrHelp, err)
	}
	program, err := os.ReadFile(flags.Arg(0))
	if err != nil {
		return err
	}
	archive, err := build(*name, program)
	if err != nil {
		return fmt.Errorf("%s: %w", flags.Arg(0), err)
	}
	if err := replace(*out, archive); err != nil {
		return err
	}
	_, err = fmt.Fprintf(messages, "wrote %s to %s\n", *name, *out)
	return err
}

const (
	entrypoint = "/orlop-storage"
	// nonroot is whom containers run as unless their pod says otherwise: nobody who exists.
	nonroot = "65532:65532"
)

// build returns the archive of an image that holds the program alone.
func build(name string, program []byte) ([]byte, error) {
	arch, err := architecture(program)
	if err != nil {
		return nil, err
	}
	var layer, archive bytes.Buffer
	w := tar.NewWriter(&layer)
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: entrypoint[1:], Mode: 0o755, Size: int64(len(program)),
		ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
	if err == nil {
		_, err = w.Write(program)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	err = oci.Write(&archive, oci.Image{Name: name, Arch: arch, Config: ocispec.ImageConfig{
		Entrypoint: []string{entrypoint}, User: nonroot,
	}}, bytes.NewReader(layer.Bytes()))
	return archive.Bytes(), err
}

// architecture returns for which one the program was made, and refuses a program that an empty image cannot run.
func architecture(program []byte) (_ string, err error) {
	file, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return "", fmt.Errorf("it is no program for Linux: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("it is linked dynamically, and the image holds no libraries: build it with CGO_ENABLED=0")
		}
	}
	switch file.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	}
	return "", fmt.Errorf("its architecture is %s: build it with GOARCH=amd64 or arm64", file.Machine)
}

// replace writes a file, which appears whole or not at all.
func replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".image-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
