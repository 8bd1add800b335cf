package supervisor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
)

// Supervisor holds a set of processes up. Make one with New; Run may be called once. Its other methods are safe
// for concurrent use.
type Supervisor struct {
	processes []*process
	byName    map[string]*process
	spawners  map[string]*spawner // by network namespace

	mu      sync.Mutex
	version uint64
	changed chan struct{} // closed and replaced at each change of any status
}

// New checks the specs (unique names, known and acyclic dependencies) and opens a log file for each in logDir, which Run
// closes.
func New(specs []Spec, logDir string) (_ *Supervisor, err error) {
	s := &Supervisor{
		byName:   map[string]*process{},
		spawners: map[string]*spawner{},
		changed:  make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeLogs())
		}
	}()
	for _, spec := range specs {
		if s.byName[spec.Name] != nil {
			return nil, fmt.Errorf("process %s is described twice", spec.Name)
		}
		for _, name := range slices.Concat(spec.After, spec.Uses) {
			// Demanding that it was described before also rules out cycles.
			if s.byName[name] == nil {
				return nil, fmt.Errorf("process %s needs %s, which is not described before it", spec.Name, name)
			}
		}
		log, err := newLogFile(filepath.Join(logDir, spec.Name+".log"))
		if err != nil {
			return nil, fmt.Errorf("log of %s: %w", spec.Name, err)
		}
		p := newProcess(s, spec, log)
		s.processes = append(s.processes, p)
		s.byName[spec.Name] = p
	}
	return s, nil
}

// Run starts the processes and holds them up until ctx ends, then stops them in reverse order and returns once
// all are gone. The stop runs under stopCtx; when that ends too, what is left is killed. The error joins
// what went wrong at the stop.
func (s *Supervisor) Run(ctx, stopCtx context.Context) error {
	for _, p := range s.processes {
		if s.spawners[p.spec.Netns] == nil {
			sp, err := newSpawner(p.spec.Netns)
			if err != nil {
				s.closeSpawners()
				return errors.Join(err, s.closeLogs())
			}
			s.spawners[p.spec.Netns] = sp
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, len(s.processes))
	for i, p := range s.processes {
		wg.Go(func() { errs[i] = p.run(ctx, stopCtx) })
	}
	wg.Wait()
	s.closeSpawners()
	return errors.Join(errors.Join(errs...), s.closeLogs())
}

func (s *Supervisor) closeSpawners() {
	for _, sp := range s.spawners {
		sp.close()
	}
}

func (s *Supervisor) closeLogs() error {
	var errs []error
	for _, p := range s.processes {
		errs = append(errs, p.log.Close())
	}
	return errors.Join(errs...)
}

// Status returns a snapshot of every process, in the order they were described, and a version that grows with
// each change.
func (s *Supervisor) Status() ([]Status, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	statuses := make([]Status, len(s.processes))
	for i, p := range s.processes {
		statuses[i] = p.status
		switch p.status.State {
		case Ready, Stopping, Stopped:
		case Waiting, Starting, Failed:
			statuses[i].LastLog = p.log.last()
		}
	}
	return statuses, s.version
}

// Wait blocks until the version is greater than after, or ctx ends.
func (s *Supervisor) Wait(ctx context.Context, after uint64) {
	for {
		s.mu.Lock()
		version, changed := s.version, s.changed
		s.mu.Unlock()
		if version > after {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// WaitReady blocks until the named process is ready, or ctx ends.
func (s *Supervisor) WaitReady(ctx context.Context, name string) error {
	p := s.byName[name]
	if p == nil {
		return fmt.Errorf("no process %s", name)
	}
	return s.waitAll(ctx, []*process{p}, Ready)
}

// Touch wakes those who Wait, for a change of something they report beside the processes.
func (s *Supervisor) Touch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changedLocked()
}

// update changes p's status under the lock and wakes the waiters.
func (s *Supervisor) update(p *process, change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&p.status)
	s.changedLocked()
}

func (s *Supervisor) changedLocked() {
	s.version++
	close(s.changed)
	s.changed = make(chan struct{})
}

// waitAll blocks until every named process is in one of the states, or ctx ends.
func (s *Supervisor) waitAll(ctx context.Context, processes []*process, states ...State) error {
	for {
		s.mu.Lock()
		changed := s.changed
		all := true
		for _, p := range processes {
			all = all && slices.Contains(states, p.status.State)
		}
		s.mu.Unlock()
		if all {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// dependencies are what p's start waits for.
func (s *Supervisor) dependencies(p *process) []*process {
	var out []*process
	for _, name := range p.spec.After {
		out = append(out, s.byName[name])
	}
	return out
}

// dependents are what p's stop waits for.
func (s *Supervisor) dependents(p *process) []*process {
	var out []*process
	for _, q := range s.processes {
		if slices.Contains(q.spec.After, p.spec.Name) || slices.Contains(q.spec.Uses, p.spec.Name) {
			out = append(out, q)
		}
	}
	return out
}
