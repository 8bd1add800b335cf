package payload

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/component-base/logs/json"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

const marker = "orlop-marker-7b1e"

// leaks reports whether the marker is in the text, as it is or in a coding that a printer could have used.
func leaks(text string) bool {
	for _, form := range []string{marker, fmt.Sprintf("%x", marker), fmt.Sprintf("%X", marker), fmt.Sprintf("%d", []byte(marker))[1:20],
		base64.StdEncoding.EncodeToString([]byte(marker))[:16]} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

// Structured logging prints no content, whatever it is given and in whatever format it writes.
func TestContentIsNotLogged(t *testing.T) {
	p, err := Build(Volume{Sources: []Source{{Object: secret("k", marker)}}})
	if err != nil {
		t.Fatal(err)
	}
	o := secret("k", marker)
	_, refusal := Build(Volume{Sources: []Source{{Object: secret("../k", marker)}}})
	values := []any{"content", Content(marker), "payload", p, "pointer", &p, "file", p.Files["k"], "object", o, "value", *o, "map", o.Data,
		"source", Source{Values: []Value{{Data: Content(marker)}}}, "slice", []Content{Content(marker)}, "err", refusal}
	var text, zap, klogged, std bytes.Buffer
	textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&text), textlogger.Verbosity(10))).Info("m", values...)
	jsonLogger, _ := json.NewJSONLogger(10, json.AddNopSync(&zap), nil, nil)
	jsonLogger.Info("m", values...)
	jsonLogger.Error(refusal, "m", values...)
	slog.New(slog.NewJSONHandler(&std, nil)).Info("m", values...)
	slog.New(slog.NewTextHandler(&std, nil)).Info("m", values...)
	klog.LogToStderr(false)
	klog.SetOutput(&klogged)
	klog.InfoS("m", values...)
	klog.ErrorS(refusal, "m", values...)
	klog.Infof("%v %+v %#v %s", p, o, o.Data, Content(marker))
	klog.Flush()
	klog.LogToStderr(true)
	for name, b := range map[string]*bytes.Buffer{"text": &text, "zap": &zap, "klog": &klogged, "slog": &std} {
		if out := b.String(); !strings.Contains(out, redacted) || leaks(out) {
			t.Errorf("%s wrote: %s", name, out)
		}
	}
}

// Every refusal of Build, with the marker as the content of all that it looks at.
func TestRefusalsHoldNoContent(t *testing.T) {
	refused := 0
	check := func(v Volume) {
		t.Helper()
		_, err := Build(v)
		if err == nil {
			return
		}
		refused++
		if text := fmt.Sprintf("%v|%+v|%#v|%q", err, err, err, err); leaks(text) {
			t.Errorf("an error holds content: %s", text)
		}
	}
	mode := int32(0o7777)
	uid := int64(-1)
	for _, h := range hostile {
		o := secret("k", marker, h.name, marker)
		o.BinaryData = content("b", marker)
		check(Volume{Sources: []Source{{Object: o}}})
		check(Volume{Sources: []Source{{Object: o, Items: []Item{{Key: "k", Path: h.name}}}}})
		check(Volume{Sources: []Source{{Values: []Value{{Path: h.name, Data: Content(marker)}}}}})
	}
	o := secret("a", marker, "b", marker)
	for _, v := range []Volume{
		{DefaultMode: mode, Sources: []Source{{Object: o}}},
		{FSGroup: &uid, Sources: []Source{{Object: o}}},
		{Sources: []Source{{Object: o, Items: []Item{{Key: "gone", Path: "x"}}}}},
		{Sources: []Source{{Object: o, Items: []Item{{Key: "a", Path: "x", Mode: &mode}}}}},
		{Sources: []Source{{Object: o, Items: []Item{{Key: "a", Path: "x"}, {Key: "b", Path: "x/y"}}}}},
		{Sources: []Source{{Object: o}, {Object: absent(ConfigMap)}}},
		{Sources: []Source{{Values: []Value{{Path: "x", Data: Content(marker), UID: &uid}}}}},
	} {
		before := refused
		if check(v); refused == before {
			t.Errorf("%+v is not refused", v)
		}
	}
	if refused < 100 {
		t.Errorf("only %d volumes were refused", refused)
	}
}
