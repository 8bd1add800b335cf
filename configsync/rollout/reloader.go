package rollout

import (
	"regexp"
	"strings"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
)

// The annotations of Stakater's Reloader that are understood, with the meaning that its documentation gives them.
const (
	reloaderPrefix        = "reloader.stakater.com/"
	reloaderAuto          = "reloader.stakater.com/auto"
	reloaderConfigMapAuto = "configmap.reloader.stakater.com/auto"
	reloaderSecretAuto    = "secret.reloader.stakater.com/auto"
	reloaderConfigMaps    = "configmap.reloader.stakater.com/reload"
	reloaderSecrets       = "secret.reloader.stakater.com/reload"
	reloaderNoConfigMaps  = "configmaps.exclude.reloader.stakater.com/reload"
	reloaderNoSecrets     = "secrets.exclude.reloader.stakater.com/reload"
	reloaderSearch        = "reloader.stakater.com/search"
	// These two stand on ConfigMaps and Secrets.
	reloaderMatch  = "reloader.stakater.com/match"
	reloaderIgnore = "reloader.stakater.com/ignore"
)

// reloader is what Reloader's annotations add to the settings.
type reloader struct {
	named []named
	// search: objects that the pods use are followed where they have reloaderMatch.
	search bool
}

// named is an object given by its name, or by a pattern, which can only find objects that the pods use.
type named struct {
	key     source.Key
	pattern *regexp.Regexp
}

// matches reports whether a pattern finds the object.
func (r *reloader) matches(key source.Key) bool {
	for _, n := range r.named {
		if n.pattern != nil && n.key.Kind == key.Kind && n.pattern.MatchString(key.Name) {
			return true
		}
	}
	return false
}

// parseReloader adds what Reloader's annotations ask for. As there, reloader.stakater.com/auto: "false" takes nothing back
// that another annotation asks for.
func (s *settings) parseReloader(namespace string, get lookup) error {
	for _, auto := range []struct {
		annotation string
		kinds      []payload.Kind
	}{
		{reloaderAuto, []payload.Kind{payload.ConfigMap, payload.Secret}},
		{reloaderConfigMapAuto, []payload.Kind{payload.ConfigMap}},
		{reloaderSecretAuto, []payload.Kind{payload.Secret}},
	} {
		on, _, err := boolean(get, auto.annotation)
		if err != nil {
			return err
		}
		if on {
			for _, kind := range auto.kinds {
				s.all[kind] = true
			}
		}
	}
	var err error
	if s.search, _, err = boolean(get, reloaderSearch); err != nil {
		return err
	}
	for annotation, kind := range map[string]payload.Kind{
		reloaderConfigMaps: payload.ConfigMap, reloaderSecrets: payload.Secret,
	} {
		names, err := names(namespace, kind, get, annotation)
		if err != nil {
			return err
		}
		s.named = append(s.named, names...)
	}
	for annotation, kind := range map[string]payload.Kind{
		reloaderNoConfigMaps: payload.ConfigMap, reloaderNoSecrets: payload.Secret,
	} {
		v, _ := get(annotation)
		for name := range strings.SplitSeq(v, ",") {
			s.ignore[source.Key{Kind: kind, Namespace: namespace, Name: strings.TrimSpace(name)}] = true
		}
	}
	return nil
}

// names reads a list of names and patterns. Empty items say nothing, as in Reloader.
func names(namespace string, kind payload.Kind, get lookup, annotation string) ([]named, error) {
	v, _ := get(annotation)
	var found []named
	for name := range strings.SplitSeq(v, ",") {
		name = strings.TrimSpace(name)
		n := named{key: source.Key{Kind: kind, Namespace: namespace, Name: name}}
		if name == "" {
			continue
		}
		if !isName(name) {
			pattern, err := regexp.Compile("^(?:" + name + ")$")
			if err != nil {
				return nil, &InvalidError{annotation, v, `a list of names or regular expressions, as "a,b"`}
			}
			n.key.Name, n.pattern = "", pattern
		}
		found = append(found, n)
	}
	return found, nil
}

// ignored and tagged read the annotations of an object.
func ignored(o *payload.Object) bool { return o.Annotations[reloaderIgnore] == "true" }

func tagged(o *payload.Object) bool { return o.Annotations[reloaderMatch] == "true" }
