package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/orlop-io/orlop/cluster/configstatus"
)

// credentialsVolume is how the API server names the volume it adds to every pod.
const credentialsVolume = "kube-api-access-"

func printConfigStatus(w io.Writer, r *configstatus.Report, output string, namespaces bool, now time.Time) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	wide := output == "wide"
	if !r.Compared {
		fmt.Fprintf(w, "The API server could not be asked, so this is what is on the node, compared with nothing:\n%s\n\n", r.Failure)
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(namespace string, cells ...string) {
		if namespaces {
			cells = append([]string{namespace}, cells...)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	shown := 0
	for _, v := range r.Volumes {
		if strings.HasPrefix(v.Name, credentialsVolume) && !wide && v.State != configstatus.Behind && v.State != configstatus.Pending {
			continue
		}
		if shown++; shown == 1 {
			header := []string{"POD", "VOLUME", "KIND", "OBJECTS", "SINCE", "STATE"}
			if wide {
				header = append(header, "GENERATION", "PATH")
			}
			row("NAMESPACE", header...)
		}
		cells := []string{podName(v), v.Name, v.Kind, objectList(v), age(now, v.Since), state(v)}
		if wide {
			cells = append(cells, orDash(v.Generation), orDash(v.Path))
		}
		row(v.Namespace, cells...)
	}
	if shown == 0 {
		fmt.Fprintln(t, "No configuration volumes.")
	}
	if err := t.Flush(); err != nil || len(r.Fixed) == 0 {
		return err
	}
	fmt.Fprintln(w, "\nDoes not follow while the container runs:")
	row("NAMESPACE", "POD", "CONTAINER", "WHAT", "OBJECT", "NOTE")
	for _, f := range r.Fixed {
		row(f.Namespace, f.Pod, f.Container, f.What, fmt.Sprintf("%s/%s", f.Kind, f.Name), f.Message)
	}
	return t.Flush()
}

// podName is the pod's name, or its UID where the name is not known.
func podName(v configstatus.Volume) string {
	if v.Pod == "" {
		return v.PodUID
	}
	return v.Pod
}

// objectList names the objects with the versions that are projected.
func objectList(v configstatus.Volume) string {
	var all []string
	for _, o := range v.Objects {
		name := o.Name
		if o.Namespace != v.Namespace {
			name = o.Namespace + "/" + name
		}
		if o.ResourceVersion != "" { // of a pod the kubelet does not know it
			name += "@" + o.ResourceVersion
		}
		all = append(all, fmt.Sprintf("%s/%s", o.Kind, name))
	}
	return orDash(strings.Join(all, ","))
}

func state(v configstatus.Volume) string {
	if v.Message == "" {
		return string(v.State)
	}
	return fmt.Sprintf("%s: %s", v.State, v.Message)
}

func age(now, since time.Time) string {
	if since.IsZero() {
		return "-"
	}
	// A generation's time is of whole seconds, cut off, and clocks may be set back.
	return duration.HumanDuration(max(0, now.Sub(since)))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
