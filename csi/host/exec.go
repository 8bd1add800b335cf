package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// ErrToolMissing says that a program that has to be there is not installed.
var ErrToolMissing = errors.New("program not found")

// ToolError says how a program failed.
type ToolError struct {
	Tool string
	// ExitCode is the program's, -1 when a signal ended it.
	ExitCode int
	// Stderr is what it said, shortened.
	Stderr string
}

// Error gives the program, its exit code and what it said.
func (e *ToolError) Error() string {
	return fmt.Sprintf("%s failed (exit code %d): %s", e.Tool, e.ExitCode, e.Stderr)
}

// maxStderr bounds what a ToolError keeps, in bytes.
const maxStderr = 1024

// killGrace is how long a killed program's pipes may stay open before they are closed on it.
const killGrace = 2 * time.Second

// toolDirs are searched after PATH, which often lacks them for those who are not root at login.
var toolDirs = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}

// mkfsExt4 and its Debian package.
const mkfsExt4, mkfsExt4Package = "mkfs.ext4", "e2fsprogs"

// CanMakeExt4 says, as ErrToolMissing, why MakeExt4 cannot work, nil when it can.
func (h *Host) CanMakeExt4() error {
	_, err := findTool(mkfsExt4, mkfsExt4Package)
	return err
}

// MakeExt4 makes an ext4 file system that fills the file. It keeps what is reserved for the file reserved, keeps no
// blocks back for root, and leaves the zeroing of inode tables out: the kernel treats unused ones as empty.
func (h *Host) MakeExt4(ctx context.Context, l Label, image *os.File) error {
	if err := h.Step(l); err != nil {
		return err
	}
	// The file is passed open (descriptor 3), so that no path is resolved a second time. nodiscard: by default mke2fs
	// would begin by punching the reserved space out of the file.
	return run(ctx, []*os.File{image}, mkfsExt4, mkfsExt4Package,
		"-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", "/proc/self/fd/3")
}

// run executes a program in the C locale with the files as descriptors 3 and up. When ctx ends it is killed and the
// error is the context's. pack is the package that has the program, for the message when it is missing.
func run(ctx context.Context, files []*os.File, tool, pack string, args ...string) error {
	file, err := findTool(tool, pack)
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, file, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stderr = &stderr
	cmd.ExtraFiles = files
	cmd.WaitDelay = killGrace
	err = cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", tool, ctx.Err())
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		text := strings.TrimSpace(stderr.String())
		if len(text) > maxStderr {
			text = text[:maxStderr] + "..."
		}
		return &ToolError{Tool: tool, ExitCode: exit.ExitCode(), Stderr: text}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	return nil
}

func findTool(tool, pack string) (string, error) {
	if file, err := exec.LookPath(tool); err == nil {
		return file, nil
	}
	for _, dir := range toolDirs {
		if file, err := exec.LookPath(filepath.Join(dir, tool)); err == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: %w in PATH or %s; install the package %s",
		tool, ErrToolMissing, strings.Join(toolDirs, ", "), pack)
}
