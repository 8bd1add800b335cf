package action

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

const onChange = "config.orlop.io/on-change"

func TestParse(t *testing.T) {
	hup := Signal(syscall.SIGHUP)
	for value, want := range map[string]Spec{
		"signal=SIGHUP":                        {Kind: KindSignal, Signal: hup},
		"signal=HUP":                           {Kind: KindSignal, Signal: hup},
		"signal=1":                             {Kind: KindSignal, Signal: hup},
		"signal=SIGUSR2,container=app":         {Kind: KindSignal, Signal: Signal(syscall.SIGUSR2), Container: "app"},
		"signal=SIGRTMIN+3":                    {Kind: KindSignal, Signal: 37},
		"signal=RTMIN":                         {Kind: KindSignal, Signal: 34},
		"signal=64":                            {Kind: KindSignal, Signal: 64},
		`exec=["sh","-c","kill -HUP 7"]`:       {Kind: KindExec, Command: []string{"sh", "-c", "kill -HUP 7"}},
		`exec=["a,container=b"],container=c`:   {Kind: KindExec, Command: []string{"a,container=b"}, Container: "c"},
		`exec= [ "a" , "" ] `:                  {}, // see below
		"exec=/bin/reload  --now":              {Kind: KindExec, Command: []string{"/bin/reload", "--now"}},
		"exec=a b,c,container=x":               {Kind: KindExec, Command: []string{"a", "b,c"}, Container: "x"},
		"http=:8080":                           {Kind: KindHTTP, Request: Request{"GET", "8080", "/"}},
		"http=POST :8080/-/reload":             {Kind: KindHTTP, Request: Request{"POST", "8080", "/-/reload"}},
		"https=PUT :admin/r?a=b,c,container=x": {Kind: KindHTTPS, Request: Request{"PUT", "admin", "/r?a=b,c"}, Container: "x"},
		"http=:65535//x%20y":                   {Kind: KindHTTP, Request: Request{"GET", "65535", "//x%20y"}},
		"restart-container":                    {Kind: KindRestart},
		"restart-container,container=web-1":    {Kind: KindRestart, Container: "web-1"},
	} {
		got, err := Parse(map[string]string{onChange: value, "other": "x"})
		if want.Kind == "" {
			if err == nil {
				t.Errorf("%s: accepted as %+v", value, got)
			}
			continue
		}
		want.Debounce, want.Retries, want.Timeout = DefaultDebounce, DefaultRetries, DefaultTimeout
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v, %v; want %+v", value, got, err, want)
		}
	}
}

func TestParseOptions(t *testing.T) {
	got, err := Parse(map[string]string{onChange: "signal=SIGHUP", onChange + "-debounce": "2s", onChange + "-retries": "0",
		onChange + "-timeout": "1m", onChange + "-volumes": "a, kube-api-access-x"})
	want := &Spec{Kind: KindSignal, Signal: 1, Debounce: 2 * time.Second, Timeout: time.Minute,
		Volumes: []string{"a", "kube-api-access-x"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for volume, follows := range map[string]bool{"a": true, "b": false, "kube-api-access-x": true} {
		if got.Follows(volume) != follows {
			t.Errorf("volume %s: followed %v", volume, !follows)
		}
	}
	all, err := Parse(map[string]string{onChange: "signal=SIGHUP"})
	if err != nil || !all.Follows("a") || all.Follows("kube-api-access-x") {
		t.Errorf("without a list: %+v, %v", all, err)
	}
	if none, err := Parse(map[string]string{"config.orlop.io/rollout": "true"}); none != nil || err != nil {
		t.Errorf("a pod that asks for nothing: %+v, %v", none, err)
	}
}

// Each error names the annotation and what is allowed there.
func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ key, value, says string }{
		{"", "", "want signal=SIGHUP"},
		{"", "SIGHUP", "want signal=SIGHUP"},
		{"", "reload=x", "want signal=SIGHUP"},
		{"", "Signal=SIGHUP", "want signal=SIGHUP"},
		{"", " signal=SIGHUP", "want signal=SIGHUP"},
		{"", "signal=", "allowed are SIGHUP"},
		{"", "signal=SIGKILL", "allowed are SIGHUP"},
		{"", "signal=9", "allowed are SIGHUP"},
		{"", "signal=19", "allowed are SIGHUP"},
		{"", "signal=0", "allowed are SIGHUP"},
		{"", "signal=32", "allowed are SIGHUP"},
		{"", "signal=65", "allowed are SIGHUP"},
		{"", "signal=-1", "allowed are SIGHUP"},
		{"", "signal=sighup", "allowed are SIGHUP"},
		{"", "signal=SIGRTMIN+31", "allowed are SIGHUP"},
		{"", "signal=SIGRTMIN-1", "allowed are SIGHUP"},
		{"", "signal=SIGHUP,container=", "not the name of a container"},
		{"", "signal=SIGHUP,container=../x", "not the name of a container"},
		{"", "signal=SIGHUP,container=a,retries=2", "not the name of a container"},
		{"", "signal=SIGHUP,retries=2", "allowed are SIGHUP"},
		{"", "exec=", "names no program"},
		{"", "exec=   ", "names no program"},
		{"", "exec=[]", "names no program"},
		{"", `exec=[""]`, "names no program"},
		{"", `exec=["a"`, "it has no end"},
		{"", `exec=["a",1]`, "something else in it than strings"},
		{"", `exec=[a]`, "wrong at byte 2"},
		{"", `exec=["a"] b`, "after the list"},
		{"", `exec=["a\u0000"]`, "zero bytes"},
		{"", "exec=sh -c 'kill -HUP 1'", "no shell reads it"},
		{"", "exec=a && b", "no shell reads it"},
		{"", "exec=a $HOME", "no shell reads it"},
		{"", "http=", "want [METHOD ]:port/path"},
		{"", "http=8080/x", "want [METHOD ]:port/path"},
		{"", "http=localhost:8080/x", "want [METHOD ]:port/path"},
		{"", "http=http://127.0.0.1:80/", "want [METHOD ]:port/path"},
		{"", "http=DELETE :80/", "want one of GET, POST, PUT"},
		{"", "http=get :80/", "want one of GET, POST, PUT"},
		{"", "http=:0/", "want 1 to 65535"},
		{"", "http=:65536/", "want 1 to 65535"},
		{"", "http=:080/", "want 1 to 65535"},
		{"", "http=:/x", "name of a container's port"},
		{"", "http=:a_b/x", "name of a container's port"},
		{"", "http=:80?x", "name of a container's port"},
		{"", "http=:80/a b", "visible ASCII"},
		{"", "http=:80/a\r\nHost: x", "visible ASCII"},
		{"", "http=:80/#x", "visible ASCII"},
		{"", "http=:80/ä", "visible ASCII"},
		{"", "http=:80/%zz", "not one of a URL"},
		{"", "restart-container=x", "want signal=SIGHUP"},
		{"", "restart-containers", "want signal=SIGHUP"},
		{"-debounce", "5", "want a duration from 10ms to 10m0s, such as 500ms"},
		{"-debounce", "0s", "want a duration from 10ms"},
		{"-debounce", "-1s", "want a duration from 10ms"},
		{"-debounce", "11m", "want a duration from 10ms"},
		{"-timeout", "1ms", "want a duration from 1s to 10m0s, such as 30s"},
		{"-retries", "21", "want a number from 0 to 20"},
		{"-retries", "-1", "want a number from 0 to 20"},
		{"-retries", "many", "want a number from 0 to 20"},
		{"-volumes", "", "not the name of a volume"},
		{"-volumes", "a,,b", "not the name of a volume"},
		{"-volumes", "a/b", "not the name of a volume"},
		{"-debonce", "1s", "unknown; there are config.orlop.io/on-change, "},
	} {
		values := map[string]string{onChange: "signal=SIGHUP"}
		values[onChange+tt.key] = tt.value
		s, err := Parse(values)
		var parse *ParseError
		if !errors.As(err, &parse) || parse.Key != onChange+tt.key || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s=%q: %+v, %v; want an error of the annotation with %q", tt.key, tt.value, s, err, tt.says)
		}
	}
	if _, err := Parse(map[string]string{onChange + "-retries": "1"}); err == nil ||
		!strings.Contains(err.Error(), "has no effect without "+onChange) {
		t.Errorf("an option without an action: %v", err)
	}
	long := strings.Repeat("x", 10000)
	if _, err := Parse(map[string]string{onChange: "signal=" + long}); err == nil || len(err.Error()) > 500 {
		t.Errorf("the error of a long value has %d bytes", len(err.Error()))
	}
}

func TestKeys(t *testing.T) {
	keys := Keys{OnChange: "onChange", Debounce: "onChangeDebounce"}
	s, err := keys.Parse(map[string]string{"onChange": "restart-container", "onChangeDebounce": "1s", "kind": "ConfigMap", "": "x"})
	if err != nil || s.Kind != KindRestart || s.Debounce != time.Second || s.Retries != DefaultRetries {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := keys.Parse(map[string]string{"onChange": "restart-container", "onChangeRetries": "1"}); err == nil {
		t.Error("an attribute that is none is accepted")
	}
}

// Whatever is accepted is well-formed, and is written as a value that means the same.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"signal=SIGHUP,container=a", `exec=["a","<&>\u00e9"],container=b`, "exec=a b", "http=:80", "https=POST :x/y?z",
		"restart-container,container=c", "signal=SIGRTMIN+30"} {
		f.Add(seed, "1s", "5", "a,b")
	}
	f.Fuzz(func(t *testing.T, value, debounce, retries, volumes string) {
		values := map[string]string{onChange: value, onChange + "-debounce": debounce, onChange + "-retries": retries,
			onChange + "-volumes": volumes}
		s, err := Parse(values)
		if (s == nil) == (err == nil) {
			t.Fatalf("%+v, %v", s, err)
		}
		if err != nil {
			return
		}
		if s.Debounce < MinDebounce || s.Debounce > MaxDebounce || s.Retries < 0 || s.Retries > MaxRetries || len(s.Volumes) == 0 {
			t.Errorf("%+v", s)
		}
		if s.Kind == KindExec && len(s.Command) == 0 || s.Kind == KindSignal && (s.Signal == Signal(syscall.SIGKILL) || s.Signal == Signal(syscall.SIGSTOP)) {
			t.Errorf("%+v", s)
		}
		again := maps.Clone(values)
		again[onChange] = s.String()
		if got, err := Parse(again); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%q is written as %q, which is %+v, %v", value, s, got, err)
		}
	})
}
