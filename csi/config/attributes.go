package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/configsync/action"
	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
	csivolume "github.com/orlop-io/orlop/csi/volume"
)

const (
	// kubeletPrefix begins the attributes that the kubelet adds; a pod cannot set those that it does.
	kubeletPrefix = "csi.storage.k8s.io/"

	// defaultFileMode is that of Kubernetes' own ConfigMap and Secret volumes.
	defaultFileMode = 0o644
	maxMode         = 0o777

	maxAttribute = 64 << 10
	maxSources   = 64
	maxItems     = 4096
)

// Spec is what the attributes of a volume ask for.
type Spec struct {
	Sources []SourceSpec
	// OnChange is what is to be done when the files change; nil for nothing.
	OnChange *action.Spec
}

// SourceSpec is one object and how its files look. Nil is not asked for.
type SourceSpec struct {
	Key      source.Key
	Items    []payload.Item
	Optional bool
	Mode     *int32
	UID, GID *int64
}

// mode is a file mode: in YAML a number, as in Kubernetes' API (0400 is octal there, and 256 is the same in JSON), or a
// string of octal digits.
type mode int32

// UnmarshalJSON reads the mode.
func (m *mode) UnmarshalJSON(raw []byte) error {
	text := string(raw)
	if quoted, err := strconv.Unquote(text); err == nil {
		parsed, err := parseMode(quoted)
		*m = mode(parsed)
		return err
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 || n > maxMode {
		return errMode
	}
	*m = mode(n)
	return nil
}

var (
	errMode  = fmt.Errorf(`a mode is octal, between "0000" and "0777", as "0400"`)
	errOwner = fmt.Errorf("a uid or gid is a number between 0 and %d", math.MaxInt32)
	errBool  = fmt.Errorf(`want "true" or "false"`)
	errKind  = fmt.Errorf(`want "ConfigMap" or "Secret"`)
)

// itemText is an item as it is written.
type itemText struct {
	Key  string `json:"key"`
	Path string `json:"path"`
	Mode *mode  `json:"mode"`
	UID  *int64 `json:"uid"`
	GID  *int64 `json:"gid"`
}

// sourceText is an element of the attribute sources as it is written.
type sourceText struct {
	Kind        string     `json:"kind"`
	Name        string     `json:"name"`
	Namespace   string     `json:"namespace"`
	Items       []itemText `json:"items"`
	Optional    bool       `json:"optional"`
	DefaultMode *mode      `json:"defaultMode"`
	UID         *int64     `json:"uid"`
	GID         *int64     `json:"gid"`
}

// ParseAttributes reads the attributes of a volume of a pod in that namespace. Those of the kubelet are passed over. An
// error wraps volume.ErrInvalid and names the attribute and what it may be.
func ParseAttributes(attributes map[string]string, podNamespace string) (Spec, error) {
	p := parser{onChange: map[string]string{}}
	// Sorted, so that of several bad attributes it is always the same that is reported.
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		if strings.HasPrefix(name, kubeletPrefix) {
			continue
		}
		if err := p.attribute(name, attributes[name]); err != nil {
			return Spec{}, invalid(name, err)
		}
	}
	if p.several != nil {
		if p.single {
			return Spec{}, invalid("sources", fmt.Errorf("kind, name, namespace, items and optional stand within it, not beside it"))
		}
	} else {
		p.several = []sourceText{p.source}
	}
	defaults := p.source
	onChange, err := parseAction(p.onChange)
	if err != nil {
		return Spec{}, err
	}
	spec := Spec{OnChange: onChange}
	for i, text := range p.several {
		where := ""
		if !p.single {
			where = fmt.Sprintf("sources[%d].", i)
		}
		if text.DefaultMode == nil {
			text.DefaultMode = defaults.DefaultMode
		}
		if text.UID == nil {
			text.UID = defaults.UID
		}
		if text.GID == nil {
			text.GID = defaults.GID
		}
		s, attribute, err := text.parse(podNamespace)
		if err != nil {
			return Spec{}, invalid(where+attribute, err)
		}
		spec.Sources = append(spec.Sources, s)
	}
	return spec, nil
}

func invalid(attribute string, err error) error {
	return fmt.Errorf("%w: volume attribute %s: %w", csivolume.ErrInvalid, shorten(attribute), err)
}

// shorten keeps what a user wrote from filling the log, and quotes what is no plain text.
func shorten(s string) string {
	const most = 100
	if len(s) > most {
		s = s[:most] + "…"
	}
	if quoted := strconv.Quote(s); quoted[1:len(quoted)-1] != s {
		return quoted
	}
	return s
}

// parser collects the attributes.
type parser struct {
	source  sourceText
	single  bool // an attribute of a single object was given
	several []sourceText
	// onChange are the attributes of an action.
	onChange map[string]string
}

func (p *parser) attribute(name, value string) (err error) {
	if len(value) > maxAttribute {
		return fmt.Errorf("it has %d bytes and %d are the most", len(value), maxAttribute)
	}
	s := &p.source
	switch name {
	case "kind", "name", "namespace", "items", "optional":
		p.single = true
	}
	switch name {
	case "kind":
		s.Kind = value
	case "name":
		s.Name = value
	case "namespace":
		if s.Namespace = value; value == "" {
			err = fmt.Errorf("it is empty; leave it out for the pod's own namespace")
		}
	case "items":
		if err = decode(value, &s.Items); err == nil && len(s.Items) == 0 {
			err = fmt.Errorf("it is empty; leave it out for all keys")
		}
	case "optional":
		switch value {
		case "true", "false":
			s.Optional = value == "true"
		default:
			err = errBool
		}
	case "defaultMode":
		var m int32
		m, err = parseMode(value)
		s.DefaultMode = new(mode(m))
	case "uid":
		s.UID, err = parseOwner(value)
	case "gid":
		s.GID, err = parseOwner(value)
	case "sources":
		if err = decode(value, &p.several); err == nil && len(p.several) == 0 {
			err = fmt.Errorf("it is empty; name at least one object")
		}
		if len(p.several) > maxSources {
			err = fmt.Errorf("%d objects, and %d are the most", len(p.several), maxSources)
		}
	case actionKeys.OnChange, actionKeys.Debounce, actionKeys.Retries, actionKeys.Timeout:
		p.onChange[name] = value
	default:
		err = fmt.Errorf("there is no such attribute; there are kind, name, namespace, items, optional, defaultMode, uid, gid, sources, " +
			"onChange, onChangeDebounce, onChangeRetries and onChangeTimeout")
	}
	return err
}

// decode reads YAML or JSON, without a field that is not known or given twice.
func decode(text string, into any) error {
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		const most = 300
		says := err.Error()
		if len(says) > most {
			says = says[:most] + "…"
		}
		return fmt.Errorf("want a list in YAML or JSON: %s", says)
	}
	return nil
}

// parseMode reads an octal mode.
func parseMode(s string) (int32, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 31)
	if err != nil || n > maxMode {
		return 0, errMode
	}
	return int32(n), nil
}

func parseOwner(s string) (*int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil, errOwner
	}
	return &n, checkOwner(&n)
}

func checkOwner(id *int64) error {
	if id != nil && (*id < 0 || *id > math.MaxInt32) {
		return errOwner
	}
	return nil
}

// parse checks the source, and names the attribute that is wrong where one is.
func (t sourceText) parse(podNamespace string) (s SourceSpec, attribute string, err error) {
	s = SourceSpec{Optional: t.Optional, Mode: (*int32)(t.DefaultMode), UID: t.UID, GID: t.GID}
	s.Key = source.Key{Kind: payload.Kind(t.Kind), Namespace: t.Namespace, Name: t.Name}
	if s.Key.Namespace == "" {
		s.Key.Namespace = podNamespace
	}
	if s.Key.Kind != payload.ConfigMap && s.Key.Kind != payload.Secret {
		return s, "kind", errKind
	}
	if bad := apivalidation.NameIsDNSSubdomain(s.Key.Name, false); len(bad) > 0 {
		return s, "name", fmt.Errorf("%s is no object's name: %s", shorten(strconv.Quote(s.Key.Name)), bad[0])
	}
	if bad := apivalidation.ValidateNamespaceName(s.Key.Namespace, false); len(bad) > 0 {
		return s, "namespace", fmt.Errorf("%s is no namespace's name: %s", shorten(strconv.Quote(s.Key.Namespace)), bad[0])
	}
	if err := checkOwner(t.UID); err != nil {
		return s, "uid", err
	}
	if err := checkOwner(t.GID); err != nil {
		return s, "gid", err
	}
	if len(t.Items) > maxItems {
		return s, "items", fmt.Errorf("%d items, and %d are the most", len(t.Items), maxItems)
	}
	for i, item := range t.Items {
		parsed, field, err := item.parse()
		if err != nil {
			return s, fmt.Sprintf("items[%d].%s", i, field), err
		}
		s.Items = append(s.Items, parsed)
	}
	return s, "", nil
}

func (t itemText) parse() (item payload.Item, field string, err error) {
	item = payload.Item{Key: t.Key, Path: t.Path, Mode: (*int32)(t.Mode), UID: t.UID, GID: t.GID}
	if bad := validation.IsConfigMapKey(t.Key); len(bad) > 0 {
		return item, "key", fmt.Errorf("%s is no key: %s", shorten(strconv.Quote(t.Key)), bad[0])
	}
	if item.Path == "" {
		item.Path = t.Key
	}
	if item.Path, err = payload.CleanPath(item.Path); err != nil {
		return item, "path", err
	}
	if err := checkOwner(t.UID); err != nil {
		return item, "uid", err
	}
	if err := checkOwner(t.GID); err != nil {
		return item, "gid", err
	}
	return item, "", nil
}
