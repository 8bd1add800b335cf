package action

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// target is a container that is to be acted on, or the pod for a request.
type target struct {
	container Container
	done      bool
}

// batch is one run of an action and its retries: for all changes that it covers.
type batch struct {
	pod     Pod
	spec    *Spec
	volumes map[string]Volume
	done    []func()

	// targets are found once. A container that starts later has read the new files.
	targets []target
	found   bool
	// refused are the errors of targets for which another attempt cannot help.
	refused []error
}

// permanentError is one that another attempt cannot mend.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func permanent(format string, args ...any) error { return permanentError{fmt.Errorf(format, args...)} }

// perform acts on all targets that were not acted on yet and says what it did. No error where there was nothing to do.
func (r *Runner) perform(ctx context.Context, b *batch) (did []string, err error) {
	if err := r.find(ctx, b); err != nil {
		return nil, err
	}
	var errs []error
	for i := range b.targets {
		t := &b.targets[i]
		if t.done {
			continue
		}
		what, err := r.act(ctx, b, &t.container)
		switch {
		case errors.Is(err, ErrNotRunning):
			t.done = true
		case errors.As(err, &permanentError{}):
			t.done = true
			b.refused = append(b.refused, fmt.Errorf("%s: %w", what, err))
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		default:
			t.done = true
			did = append(did, what)
		}
	}
	if len(errs) == 0 {
		// No attempt helps any more.
		return did, errors.Join(b.refused...)
	}
	return did, errors.Join(errs...)
}

// find determines the containers.
func (r *Runner) find(ctx context.Context, b *batch) error {
	if b.found {
		return nil
	}
	if name := b.spec.Container; name != "" && b.pod.Containers != nil {
		if _, ok := b.pod.Containers[name]; !ok {
			return permanent("%s=%s: the pod has no container of that name", strings.Trim(containerOption, ",="), name)
		}
	}
	running, err := r.o.Runtime.Containers(ctx, b.pod.UID)
	if err != nil {
		return err
	}
	b.targets, b.refused = nil, nil
	if b.spec.Kind == KindHTTP || b.spec.Kind == KindHTTPS {
		c, err := b.spec.server(running)
		if err != nil {
			return err
		}
		if c != nil {
			b.targets = []target{{container: *c}}
		}
		b.found = true
		return nil
	}
	for _, c := range running {
		if name := b.spec.Container; name == c.Name || name == "" && b.mountedBy(c) {
			b.targets = append(b.targets, target{container: c})
		}
	}
	b.found = true
	return nil
}

// mountedBy reports whether a volume that changed is mounted into the container, whole or in part.
func (b *batch) mountedBy(c Container) bool {
	for _, v := range b.volumes {
		for _, dir := range v.Dirs {
			if slices.ContainsFunc(c.Mounts, func(mount string) bool {
				rest, ok := strings.CutPrefix(filepath.Clean(mount), dir)
				return ok && (rest == "" || rest[0] == '/')
			}) {
				return true
			}
		}
	}
	return false
}

// act acts on one container and says what it did or tried to do, without what a program printed or a server sent.
func (r *Runner) act(ctx context.Context, b *batch, c *Container) (what string, err error) {
	s := b.spec
	switch s.Kind {
	case KindSignal:
		what = fmt.Sprintf("%s to container %s", s.Signal, c.Name)
		return what, r.o.Runtime.Signal(ctx, c.ID, s.Signal)
	case KindExec:
		what = fmt.Sprintf("%s in container %s", strconv.Quote(s.Command[0]), c.Name)
		return what, r.exec(ctx, c, s.Command, s.Timeout)
	case KindHTTP, KindHTTPS:
		path, _, _ := strings.Cut(s.Request.Path, "?")
		what = fmt.Sprintf("%s %s://:%s%s", s.Request.Method, s.Kind, s.Request.Port, path)
		port, err := s.port(c)
		if err != nil {
			return what, err
		}
		host, err := r.address(ctx, b.pod)
		if err != nil {
			return what, err
		}
		ctx, cancel := context.WithTimeout(ctx, s.Timeout)
		defer cancel()
		return what, r.http.do(ctx, string(s.Kind), host, port, s.Request.Method, s.Request.Path)
	case KindRestart:
		what = "restart of container " + c.Name
		again, known := b.pod.Containers[c.Name]
		if known && !again {
			return what, permanent("it needs restartPolicy Always: with another the container might not be started again")
		}
		if b.pod.Containers == nil {
			return what, permanent("it is not known here whether the container would be started again")
		}
		return what, r.restart(ctx, b.pod, c)
	}
	return "", permanent("unknown action %q", s.Kind)
}

func (r *Runner) exec(ctx context.Context, c *Container, command []string, timeout time.Duration) error {
	code, err := r.o.Runtime.Exec(ctx, c.ID, command, timeout)
	if err == nil && code != 0 {
		return fmt.Errorf("exit code %d", code)
	}
	return err
}

// restart runs what the kubelet would have run before the end, and ends the container; the kubelet starts it again. Like
// the kubelet, it takes the time of the hook from the grace period, but for two seconds, and ends the container also
// where the hook failed.
func (r *Runner) restart(ctx context.Context, pod Pod, c *Container) error {
	grace := c.Grace
	if c.PreStop != nil && grace > 0 {
		start := time.Now()
		hookCtx, cancel := context.WithTimeout(ctx, grace)
		err := r.preStop(hookCtx, pod, c, grace)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrUnavailable) {
			return err
		}
		grace = max(grace-time.Since(start), 2*time.Second)
	}
	return r.o.Runtime.Stop(ctx, c.ID, grace)
}

func (r *Runner) preStop(ctx context.Context, pod Pod, c *Container, grace time.Duration) error {
	switch h := c.PreStop; {
	case h.Exec != nil && len(h.Exec.Command) > 0:
		return r.exec(ctx, c, h.Exec.Command, grace)
	case h.Sleep != nil:
		t := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	case h.HTTPGet != nil:
		host := h.HTTPGet.Host
		if host == "" {
			var err error
			if host, err = r.address(ctx, pod); err != nil {
				return err
			}
		}
		port, err := portOf(h.HTTPGet.Port.String(), c.Ports)
		if err != nil {
			return err
		}
		scheme := KindHTTP
		if h.HTTPGet.Scheme == corev1.URISchemeHTTPS {
			scheme = KindHTTPS
		}
		return r.http.do(ctx, string(scheme), host, port, "GET", "/"+strings.TrimPrefix(h.HTTPGet.Path, "/"))
	}
	return nil
}

// address returns the host to which a request to the pod goes.
func (r *Runner) address(ctx context.Context, pod Pod) (string, error) {
	host, err := r.o.Runtime.Address(ctx, pod.UID)
	if err == nil && host == "" {
		if host = r.o.HostIP; host == "" {
			return "", permanent("the pod is in its node's network, and the node's address is not known here")
		}
	}
	return host, err
}
