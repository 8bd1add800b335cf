package cri

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/configsync/action"
)

// Signal sends a signal to the first process of a container.
//
// The runtime tells that process's number, which may be another process's by the time it is used. So the process is held
// by a pidfd first, and sent the signal through it, and only where its control group names the container and the pidfd
// then still has it: what was read was of the process that is held.
func (r *Runtime) Signal(ctx context.Context, id string, s action.Signal) error {
	pid, err := r.pid(ctx, id)
	if err != nil {
		return err
	}
	return signalProcess(pid, id, s)
}

// pid asks for the number of a container's first process. It is no part of the CRI's messages; containerd and CRI-O tell
// it both in the information that they give to debuggers.
func (r *Runtime) pid(ctx context.Context, id string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := r.client.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return 0, failure("look at the container", err)
	}
	if answer.Status.GetState() != cri.ContainerState_CONTAINER_RUNNING {
		return 0, action.ErrNotRunning
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(answer.Info["info"]), &info); err != nil || info.PID <= 1 {
		return 0, errors.New("the container runtime does not tell the number of the container's process")
	}
	return info.PID, nil
}

// signalProcess sends a signal to the process, if it is the container's.
func signalProcess(pid int, id string, s action.Signal) (err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return action.ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("hold the container's process: %w", err)
	}
	defer func() { err = errors.Join(err, os.NewSyscallError("close", unix.Close(fd))) }()
	mine, err := inContainer(pid, id)
	if err != nil {
		return err
	}
	handled, err := handles(pid, s)
	if err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); errors.Is(err, unix.ESRCH) {
		return action.ErrNotRunning
	} else if err != nil {
		return fmt.Errorf("send the signal: %w", err)
	}
	// The process lives still, so what was read above is of it.
	if !mine {
		return fmt.Errorf("process %d, which the container runtime names, is not the container's here; "+
			"signals need the processes of the host", pid)
	}
	if !handled {
		return action.ErrUnhandled
	}
	err = unix.PidfdSendSignal(fd, syscall.Signal(s), nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return action.ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("send the signal: %w", err)
	}
	return nil
}

// read reads a file of a process.
func read(pid int, file string) ([]byte, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + file)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, action.ErrNotRunning
	}
	return raw, err
}

// inContainer reports whether a control group of the process has the container's name, as both drivers of control groups
// and both versions of them have it.
func inContainer(pid int, id string) (bool, error) {
	raw, err := read(pid, "cgroup")
	return bytes.Contains(raw, []byte(id)), err
}

// handles reports whether the signal has an effect. The kernel drops one that the first process of a PID namespace has
// no handler for; one that is blocked it keeps, for a program that waits for signals.
func handles(pid int, s action.Signal) (bool, error) {
	raw, err := read(pid, "status")
	if err != nil {
		return false, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	// The last of them is the number in the process's own namespace.
	numbers := strings.Fields(fields["NSpid"])
	if len(numbers) == 0 {
		return false, fmt.Errorf("/proc/%d/status lacks NSpid", pid)
	}
	set := func(name string) (bool, error) {
		mask, err := strconv.ParseUint(fields[name], 16, 64)
		if err != nil {
			return false, fmt.Errorf("/proc/%d/status: %s: %w", pid, name, err)
		}
		return mask&(1<<(s-1)) != 0, nil
	}
	caught, err := set("SigCgt")
	if err != nil || caught {
		return caught, err
	}
	blocked, err := set("SigBlk")
	if err != nil || blocked {
		return blocked, err
	}
	ignored, err := set("SigIgn")
	if err != nil {
		return false, err
	}
	return !ignored && numbers[len(numbers)-1] != "1", nil
}
