package action

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// Signal is a signal that may be sent on a change.
type Signal syscall.Signal

// signals are those by which programs are told to read their configuration again, or to do something else that is no
// end by force. SIGKILL and SIGSTOP, which no program can handle, are not among them.
var signals = map[string]Signal{
	"SIGHUP": Signal(syscall.SIGHUP), "SIGINT": Signal(syscall.SIGINT), "SIGQUIT": Signal(syscall.SIGQUIT),
	"SIGUSR1": Signal(syscall.SIGUSR1), "SIGUSR2": Signal(syscall.SIGUSR2), "SIGALRM": Signal(syscall.SIGALRM),
	"SIGTERM": Signal(syscall.SIGTERM), "SIGCONT": Signal(syscall.SIGCONT), "SIGWINCH": Signal(syscall.SIGWINCH),
	"SIGURG": Signal(syscall.SIGURG), "SIGIO": Signal(syscall.SIGIO),
}

const (
	// rtMin is SIGRTMIN as glibc and musl number it for programs: they keep the first of the kernel's for themselves.
	rtMin Signal = 34
	rtMax Signal = 64
	// rtName begins the names of the real-time signals.
	rtName = "SIGRTMIN"
)

const allowedSignals = "SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGCONT, SIGWINCH, SIGURG, SIGIO, " +
	"SIGRTMIN+0 to SIGRTMIN+30, or the number of one of them"

var errSignal = errors.New("not a signal that can be sent; allowed are " + allowedSignals)

// parseSignal takes a name, with or without SIG and in upper case, or a number.
func parseSignal(s string) (Signal, error) {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		for _, sig := range signals {
			if sig == Signal(n) {
				return sig, nil
			}
		}
		if sig := Signal(n); sig >= rtMin && sig <= rtMax {
			return sig, nil
		}
		return 0, errSignal
	}
	name := s
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig, ok := signals[name]; ok {
		return sig, nil
	}
	if plus, ok := strings.CutPrefix(name, rtName); ok {
		if plus == "" {
			return rtMin, nil
		}
		digits, ok := strings.CutPrefix(plus, "+")
		if n, err := strconv.ParseUint(digits, 10, 8); ok && err == nil && rtMin+Signal(n) <= rtMax {
			return rtMin + Signal(n), nil
		}
	}
	return 0, errSignal
}

// String returns the signal's name.
func (s Signal) String() string {
	for name, sig := range signals {
		if sig == s {
			return name
		}
	}
	return fmt.Sprintf("%s+%d", rtName, s-rtMin)
}
