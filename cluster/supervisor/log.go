package supervisor

import (
	"bytes"
	"io"
	"slices"
	"sync"
)

// Rotation of a component's log: what is kept of one is at most (logBackups+1) × logBytes.
const (
	logBytes   = 20 << 20
	logBackups = 3
	tailLines  = 12
	maxLine    = 4096
)

// logFile is a rotated log which remembers its last lines. Writes are the one copying goroutine's; last may be called
// beside them.
type logFile struct {
	path string
	file *rotated

	mu      sync.Mutex
	tail    []string
	partial []byte
	trace   bool // the process is writing a Go stack trace, its last words
}

var _ io.WriteCloser = (*logFile)(nil)

func newLogFile(path string) (*logFile, error) {
	file, err := openRotated(path, logBytes, logBackups)
	if err != nil {
		return nil, err
	}
	return &logFile{path: path, file: file}, nil
}

// Write appends to the file. A failure to write (a full disk) is swallowed on purpose: an error here would end
// the copying, and with its pipe unread the component would stand still.
func (l *logFile) Write(p []byte) (int, error) {
	_, _ = l.file.Write(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, p...)
	for {
		i := bytes.IndexByte(l.partial, '\n')
		if i < 0 {
			break
		}
		line := l.partial[:min(i, maxLine)]
		l.trace = l.trace || isTrace(line)
		// What a panic says stands above its trace, which would leave no room for it.
		if !l.trace {
			l.tail = append(l.tail, string(line))
		}
		l.partial = l.partial[i+1:]
	}
	if len(l.partial) > maxLine {
		l.partial = l.partial[:maxLine]
	}
	if n := len(l.tail) - tailLines; n > 0 {
		l.tail = slices.Clone(l.tail[n:])
	}
	return len(p), nil
}

// isTrace tells whether a line is the first of a Go stack trace, such as "goroutine 1 [running]:".
func isTrace(line []byte) bool {
	return bytes.HasPrefix(line, []byte("goroutine ")) && bytes.HasSuffix(line, []byte("]:"))
}

// last returns the last lines written, stack traces left out, the one that has no end yet among them: a process that dies in the middle of a
// line has said what it could.
func (l *logFile) last() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := slices.Clone(l.tail)
	if len(l.partial) > 0 && !l.trace {
		lines = append(lines, string(l.partial))
	}
	return lines[max(0, len(lines)-tailLines):]
}

// endLine ends a line or stack trace that its process left open: what its successor writes is another.
func (l *logFile) endLine() {
	l.mu.Lock()
	open := len(l.partial) > 0
	l.mu.Unlock()
	if open {
		_, _ = l.Write([]byte{'\n'})
	}
	l.mu.Lock()
	l.trace = false
	l.mu.Unlock()
}

func (l *logFile) Close() error { return l.file.Close() }
