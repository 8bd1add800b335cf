package supervisor

import (
	"bytes"
	"io"
	"os"
	"sync"

	"gopkg.in/natefinch/lumberjack.v2"
)

// Rotation of a component's log: what is kept of one is at most (logBackups+1) × logMegabytes.
const (
	logMegabytes = 20
	logBackups   = 3
	tailLines    = 12
	maxLine      = 4096
)

// logFile is a rotated log which remembers its last lines.
type logFile struct {
	rotated *lumberjack.Logger

	mu      sync.Mutex
	tail    []string
	partial []byte
}

var _ io.WriteCloser = (*logFile)(nil)

// newLogFile opens the log at path with mode 0600: components' logs can quote what users wrote.
func newLogFile(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return &logFile{rotated: &lumberjack.Logger{Filename: path, MaxSize: logMegabytes, MaxBackups: logBackups}}, nil
}

// Write appends to the file. A failure to write (a full disk) is swallowed on purpose: an error here would end
// the copying, and with its pipe unread the component would stand still.
func (l *logFile) Write(p []byte) (int, error) {
	_, _ = l.rotated.Write(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, p...)
	for {
		i := bytes.IndexByte(l.partial, '\n')
		if i < 0 {
			break
		}
		l.tail = append(l.tail, string(l.partial[:min(i, maxLine)]))
		l.partial = l.partial[i+1:]
	}
	if len(l.partial) > maxLine {
		l.partial = l.partial[:maxLine]
	}
	if n := len(l.tail) - tailLines; n > 0 {
		l.tail = append([]string(nil), l.tail[n:]...)
	}
	return len(p), nil
}

// last returns the last lines written.
func (l *logFile) last() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.tail...)
}

func (l *logFile) Close() error { return l.rotated.Close() }
