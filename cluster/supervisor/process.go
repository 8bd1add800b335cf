package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is the life of one Spec: wait for what it comes after, start, poll until ready, wait for its end,
// back off, and again; at the end of the context, stop.
type process struct {
	owner  *Supervisor
	spec   Spec
	log    *logFile
	status Status // guarded by owner.mu
}

func newProcess(owner *Supervisor, spec Spec, log *logFile) *process {
	if spec.StopTimeout == 0 {
		spec.StopTimeout = DefaultStopTimeout
	}
	if spec.ProbeTimeout == 0 {
		spec.ProbeTimeout = DefaultProbeTimeout
	}
	return &process{owner: owner, spec: spec, log: log, status: Status{
		Name: spec.Name, State: Waiting, Since: time.Now(), Log: log.path,
	}}
}

func (p *process) run(ctx, stopCtx context.Context) error {
	backoff := minBackoff
	for {
		p.enter(Waiting)
		if !p.mayStart(ctx) {
			p.enter(Stopped)
			return nil
		}
		started := time.Now()
		stopped, err := p.once(ctx, stopCtx)
		p.log.endLine()
		if stopped {
			return err
		}
		if time.Since(started) > steadyAfter {
			backoff = minBackoff
		}
		p.owner.update(p, func(s *Status) {
			s.State, s.Since, s.PID, s.Reason = Failed, time.Now(), 0, err.Error()
			s.Restarts++
		})
		if !wait(ctx, backoff) {
			p.enter(Stopped)
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// mayStart waits for the dependencies and the gate; false when ctx ended first.
func (p *process) mayStart(ctx context.Context) bool {
	return p.owner.waitAll(ctx, p.owner.dependencies(p), Ready) == nil && p.poll(ctx, p.spec.Gate) == nil
}

// ending is how a process ended, in the words of exec.Cmd.Wait.
type ending struct{ err error }

// once runs the process until it ends. stopped tells that it was asked to; otherwise err says how it ended.
func (p *process) once(ctx, stopCtx context.Context) (stopped bool, err error) {
	cmd := exec.Command(p.spec.Path, p.spec.Args...)
	cmd.Env = append(os.Environ(), p.spec.Env...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// A grandchild that inherited the log must not keep Wait from returning.
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := time.Now()
	if err := p.owner.spawners[p.spec.Netns].start(cmd); err != nil {
		return false, fmt.Errorf("cannot be started: %w", err)
	}
	p.owner.update(p, func(s *Status) {
		s.State, s.Since, s.PID = Starting, time.Now(), cmd.Process.Pid
	})
	ended := make(chan ending, 1)
	go func() { ended <- ending{cmd.Wait()} }()

	pollCtx, stopPolling := context.WithCancel(ctx)
	polled := make(chan struct{})
	go func() {
		defer close(polled)
		p.pollReady(pollCtx, started)
	}()
	var end ending
	select {
	case end = <-ended:
	case <-ctx.Done():
		stopPolling()
		<-polled
		return true, p.stop(stopCtx, cmd, ended)
	}
	stopPolling()
	<-polled
	return false, exitReason(end.err)
}

// pollReady returns when the process is ready, or ctx ends.
func (p *process) pollReady(ctx context.Context, started time.Time) {
	if err := p.poll(ctx, p.spec.Ready); err != nil {
		return
	}
	p.owner.update(p, func(s *Status) {
		s.State, s.Since, s.Reason, s.Took = Ready, time.Now(), "", time.Since(started).Seconds()
	})
}

// poll calls check until it returns nil, telling in the status why it did not. The error is ctx's.
func (p *process) poll(ctx context.Context, check func(context.Context) error) error {
	told := ""
	for check != nil {
		attempt, cancel := context.WithTimeout(ctx, p.spec.ProbeTimeout)
		err := check(attempt)
		cancel()
		if err == nil {
			break
		}
		// The same again is no news to those who wait for some.
		if ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			p.owner.update(p, func(s *Status) { s.Reason = err.Error() })
		}
		if !wait(ctx, PollInterval) {
			return ctx.Err()
		}
	}
	return nil
}

// stop waits for those that depend on the process, runs its PreStop, and ends it.
func (p *process) stop(ctx context.Context, cmd *exec.Cmd, ended <-chan ending) error {
	var errs []error
	if err := p.owner.waitAll(ctx, p.owner.dependents(p), Stopped); err != nil {
		errs = append(errs, fmt.Errorf("%s: stopped before those that need it: %w", p.spec.Name, err))
	}
	p.enter(Stopping)
	if p.spec.PreStop != nil {
		if err := p.spec.PreStop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.spec.Name, err))
		}
	}
	if err := p.signal(cmd, stopSignal); err != nil {
		errs = append(errs, err)
	}
	timeout, cancel := context.WithTimeout(ctx, p.spec.StopTimeout)
	defer cancel()
	// How it ends when it is asked to is its own affair.
	select {
	case <-ended:
	case <-timeout.Done():
		if err := p.signal(cmd, syscall.SIGKILL); err != nil {
			errs = append(errs, err)
		}
		<-ended
	}
	p.enter(Stopped)
	return errors.Join(errs...)
}

func (p *process) signal(cmd *exec.Cmd, sig syscall.Signal) error {
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %s: %w", p.spec.Name, sig, err)
	}
	return nil
}

func (p *process) enter(state State) {
	p.owner.update(p, func(s *Status) {
		s.State, s.Since, s.Reason = state, time.Now(), ""
		if state == Stopped {
			s.PID = 0
		}
	})
}

// exitReason says in words how a process ended unasked.
func exitReason(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		// The latter: it ended well, and a child of it still holds the log open.
		return errors.New("ended by itself with status 0")
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled():
		return fmt.Errorf("was ended by signal %q", exit.Sys().(syscall.WaitStatus).Signal())
	case errors.As(err, &exit):
		return fmt.Errorf("exited with status %d", exit.ExitCode())
	default:
		return err
	}
}

// wait sleeps for d and tells whether ctx still holds.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
