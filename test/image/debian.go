package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// writeLayer writes the image's one layer, a tar stream: what the spec keeps of the packages, then its own files.
func writeLayer(ctx context.Context, spec imageSpec, w io.Writer) error {
	layer := tar.NewWriter(w)
	if err := eachPackaged(ctx, spec.packages, func(hdr *tar.Header, r io.Reader) error {
		name := path.Clean("/" + hdr.Name)
		if hdr.Typeflag == tar.TypeDir || !kept(spec.keep, name) {
			return nil // directories come into being with what they hold
		}
		return add(layer, hdr, name, r)
	}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(spec.links)) {
		hdr := &tar.Header{Typeflag: tar.TypeSymlink, Linkname: spec.links[name], Mode: 0o777}
		if err := add(layer, hdr, name, nil); err != nil {
			return err
		}
	}
	for _, f := range spec.files {
		hdr := &tar.Header{Typeflag: tar.TypeReg, Mode: f.mode, Uid: f.uid, Gid: f.gid, Size: int64(len(f.data))}
		if f.dir {
			hdr.Typeflag = tar.TypeDir
		}
		if err := add(layer, hdr, f.name, strings.NewReader(f.data)); err != nil {
			return err
		}
	}
	return layer.Close()
}

// add writes one entry without what differs from build to build.
func add(layer *tar.Writer, hdr *tar.Header, name string, r io.Reader) error {
	clean := &tar.Header{
		Typeflag: hdr.Typeflag, Name: strings.TrimPrefix(name, "/"), Linkname: hdr.Linkname, Mode: hdr.Mode,
		Uid: hdr.Uid, Gid: hdr.Gid, Size: hdr.Size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	}
	if err := layer.WriteHeader(clean); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if hdr.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := io.Copy(layer, r)
	return err
}

func kept(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if strings.HasSuffix(pattern, "/") {
			return strings.HasPrefix(name, pattern)
		}
		ok, err := path.Match(pattern, name)
		return err == nil && ok
	})
}

// eachPackaged calls visit for every entry of the packages and of those they depend on, unpacked but not
// configured: no script of theirs runs.
func eachPackaged(ctx context.Context, packages []string, visit func(*tar.Header, io.Reader) error) (err error) {
	const tool = "mmdebstrap"
	if _, err := exec.LookPath(tool); err != nil {
		return fmt.Errorf("%s is missing: apt-get install %[1]s", tool)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, "--variant=extract", "--format=tar",
		"--include="+strings.Join(packages, ","), release, "-")
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	// Its own cleanup, on SIGINT, removes the directory it unpacks into.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	stream, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}

	visitErr := func() error {
		r := tar.NewReader(stream)
		for {
			hdr, err := r.Next()
			if errors.Is(err, io.EOF) {
				_, err := io.Copy(io.Discard, stream)
				return err
			}
			if err != nil {
				return err
			}
			if err := visit(hdr, r); err != nil {
				return err
			}
		}
	}()
	if visitErr != nil {
		// Nobody reads on: the tool would wait for that for ever.
		cancel()
		visitErr = errors.Join(visitErr, stream.Close())
	}
	if err := cmd.Wait(); err != nil {
		return errors.Join(fmt.Errorf("%s: %w, and it said:\n%s", tool, err, lastLines(said.String(), 10)), visitErr)
	}
	return visitErr
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
