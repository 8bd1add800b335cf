package action

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Keys are the names under which an action and its options are found.
type Keys struct {
	OnChange, Debounce, Retries, Timeout, Volumes string
}

// Annotations are the keys of a pod's annotations.
var Annotations = Keys{
	OnChange: "config.orlop.io/on-change", Debounce: "config.orlop.io/on-change-debounce",
	Retries: "config.orlop.io/on-change-retries", Timeout: "config.orlop.io/on-change-timeout",
	Volumes: "config.orlop.io/on-change-volumes",
}

// ParseError is a value that cannot be used.
type ParseError struct {
	// Key is the annotation or attribute.
	Key string
	Err error
}

// Error returns the key and what is allowed there. It quotes no more of the value than its first bytes.
func (e *ParseError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ParseError) Unwrap() error { return e.Err }

// Parse reads the annotations of a pod. It returns nil where no action is asked for, and otherwise a *ParseError for the
// first value that is wrong. The grammar of the action, in which words in capitals stand for what the user chooses:
//
//	signal=SIGNAL[,container=NAME]
//	exec=["PROGRAM","ARGUMENT",…][,container=NAME]
//	exec=PROGRAM ARGUMENT …[,container=NAME]
//	http=[METHOD ]:PORT[/PATH][,container=NAME]     (https= likewise)
//	restart-container[,container=NAME]
//
// The second form of exec splits at white space and refuses what a shell would read as more than a word: what needs that is
// to be written in the first form.
func Parse(annotations map[string]string) (*Spec, error) { return Annotations.Parse(annotations) }

// Parse is the function Parse for values under other keys.
func (k Keys) Parse(values map[string]string) (*Spec, error) {
	if err := k.known(values); err != nil {
		return nil, err
	}
	if _, ok := values[k.OnChange]; !ok {
		return nil, nil
	}
	s := &Spec{Debounce: DefaultDebounce, Retries: DefaultRetries, Timeout: DefaultTimeout}
	for _, option := range []struct {
		key string
		set func(string) error
	}{
		{k.OnChange, s.setAction},
		{k.Debounce, func(v string) error { return setDuration(&s.Debounce, v, MinDebounce, MaxDebounce) }},
		{k.Timeout, func(v string) error { return setDuration(&s.Timeout, v, MinTimeout, MaxTimeout) }},
		{k.Retries, s.setRetries},
		{k.Volumes, s.setVolumes},
	} {
		value, ok := values[option.key]
		if !ok || option.key == "" {
			continue
		}
		if err := option.set(value); err != nil {
			return nil, &ParseError{option.key, err}
		}
	}
	return s, nil
}

// known refuses options that nobody would heed: misspelt ones, and those of an action that is missing.
func (k Keys) known(values map[string]string) error {
	keys := []string{k.OnChange, k.Debounce, k.Retries, k.Timeout, k.Volumes}
	var wrong []string
	for key := range values {
		if strings.HasPrefix(key, k.OnChange) && !slices.Contains(keys, key) {
			wrong = append(wrong, key)
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return &ParseError{wrong[0], fmt.Errorf("unknown; there are %s",
			strings.Join(slices.DeleteFunc(keys, func(key string) bool { return key == "" }), ", "))}
	}
	if _, ok := values[k.OnChange]; ok {
		return nil
	}
	for _, key := range keys[1:] {
		if _, ok := values[key]; ok && key != "" {
			return &ParseError{key, fmt.Errorf("has no effect without %s", k.OnChange)}
		}
	}
	return nil
}

const containerOption = ",container="

var errForm = errors.New(`want signal=SIGHUP, exec=["program","argument"], http=[METHOD ]:port/path, https=[METHOD ]:port/path ` +
	`or restart-container, each with ,container=name at the end where one container is meant`)

func (s *Spec) setAction(value string) error {
	kind, argument, hasArgument := strings.Cut(value, "=")
	if strings.HasPrefix(value, string(KindRestart)) {
		kind, argument, hasArgument = string(KindRestart), value[len(KindRestart):], true
	}
	if !hasArgument {
		return errForm
	}
	s.Kind = Kind(kind)
	switch s.Kind {
	case KindSignal:
		argument, err := s.cutContainer(argument)
		if err != nil {
			return err
		}
		if s.Signal, err = parseSignal(argument); err != nil {
			return fmt.Errorf("signal=%s: %w", short(argument), err)
		}
		return nil
	case KindExec:
		return s.setCommand(argument)
	case KindHTTP, KindHTTPS:
		return s.setRequest(argument)
	case KindRestart:
		rest, err := s.cutContainer(argument)
		if err == nil && rest != "" {
			return errForm
		}
		return err
	}
	return errForm
}

// cutContainer takes the container's name off the end.
func (s *Spec) cutContainer(argument string) (string, error) {
	i := strings.LastIndex(argument, containerOption)
	if i < 0 {
		return argument, nil
	}
	name := argument[i+len(containerOption):]
	if len(validation.IsDNS1123Label(name)) > 0 {
		return "", fmt.Errorf("container=%s: not the name of a container; want container=name at the very end", short(name))
	}
	s.Container = name
	return argument[:i], nil
}

func (s *Spec) setCommand(argument string) error {
	if !strings.HasPrefix(argument, "[") {
		words, err := s.cutContainer(argument)
		if err != nil {
			return err
		}
		if strings.ContainsAny(words, "\"'\\`$|&;<>") {
			return errors.New(`exec= without brackets is words alone, and no shell reads it; write exec=["sh","-c","…"] for one, ` +
				`or exec=["program","argument"] for any character`)
		}
		s.Command = strings.Fields(words)
	} else {
		d := json.NewDecoder(strings.NewReader(argument))
		if err := d.Decode(&s.Command); err != nil {
			return fmt.Errorf(`exec=: not a list of strings in JSON such as ["sh","-c","kill -HUP 7"]: %w`, plain(err))
		}
		rest, err := s.cutContainer(argument[d.InputOffset():])
		if err != nil {
			return err
		}
		if rest != "" {
			return fmt.Errorf("exec=[…]%s: want the end or ,container=name after the list", short(rest))
		}
	}
	if len(s.Command) == 0 || s.Command[0] == "" {
		return errors.New("exec= names no program")
	}
	if slices.ContainsFunc(s.Command, func(word string) bool { return strings.ContainsRune(word, 0) || !utf8.ValidString(word) }) {
		return errors.New("exec=: an argument is UTF-8 without zero bytes")
	}
	return nil
}

// plain keeps what the user wrote out of the message.
func plain(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("wrong at byte %d", syntax.Offset)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it has no end")
	}
	return errors.New("there is something else in it than strings")
}

var methods = []string{"GET", "POST", "PUT"}

func (s *Spec) setRequest(argument string) error {
	argument, err := s.cutContainer(argument)
	if err != nil {
		return err
	}
	s.Request.Method = methods[0]
	if method, rest, ok := strings.Cut(argument, " "); ok && !strings.HasPrefix(argument, ":") {
		if !slices.Contains(methods, method) {
			return fmt.Errorf("%s=: method %s: want one of %s", s.Kind, short(method), strings.Join(methods, ", "))
		}
		s.Request.Method, argument = method, strings.TrimLeft(rest, " ")
	}
	target, ok := strings.CutPrefix(argument, ":")
	if !ok {
		return fmt.Errorf("%s=%s: want [METHOD ]:port/path; the host is always the pod", s.Kind, short(argument))
	}
	s.Request.Port, s.Request.Path = target, "/"
	if i := strings.IndexByte(target, '/'); i >= 0 {
		s.Request.Port, s.Request.Path = target[:i], target[i:]
	}
	if err := checkPort(s.Request.Port); err != nil {
		return fmt.Errorf("%s=: port %s: %w", s.Kind, short(s.Request.Port), err)
	}
	if bytes.ContainsFunc([]byte(s.Request.Path), func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }) {
		return fmt.Errorf("%s=: the path may hold visible ASCII characters but #; write others as %%XX", s.Kind)
	}
	if _, err := url.ParseRequestURI(s.Request.Path); err != nil {
		return fmt.Errorf("%s=: the path is not one of a URL", s.Kind)
	}
	return nil
}

func checkPort(port string) error {
	if n, err := strconv.Atoi(port); err == nil {
		if port[0] < '1' || port[0] > '9' || n > 65535 {
			return errors.New("want 1 to 65535")
		}
		return nil
	}
	if len(validation.IsValidPortName(port)) > 0 {
		return errors.New("want a number or the name of a container's port")
	}
	return nil
}

func setDuration(to *time.Duration, value string, least, most time.Duration) error {
	d, err := time.ParseDuration(value)
	if err != nil || d < least || d > most {
		return fmt.Errorf("%s: want a duration from %v to %v, such as %v", short(value), least, most, *to)
	}
	*to = d
	return nil
}

func (s *Spec) setRetries(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 || n > MaxRetries {
		return fmt.Errorf("%s: want a number from 0 to %d", short(value), MaxRetries)
	}
	s.Retries = n
	return nil
}

func (s *Spec) setVolumes(value string) error {
	for name := range strings.SplitSeq(value, ",") {
		name = strings.TrimSpace(name)
		if len(validation.IsDNS1123Label(name)) > 0 {
			return fmt.Errorf("%s: not the name of a volume; want names with commas between them", short(name))
		}
		s.Volumes = append(s.Volumes, name)
	}
	return nil
}

// short quotes the beginning of what the user wrote.
func short(s string) string {
	const most = 40
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}
