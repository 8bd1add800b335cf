package main

import (
	"encoding/json"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
	etcdversion "go.etcd.io/etcd/api/v3/version"
	"k8s.io/component-base/version"
)

// orlopVersion is set by the linker (make build).
var orlopVersion = "unknown"

func newVersionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of Orlop and of what it holds",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := []struct{ name, version string }{
				{"orlop", orlopVersion},
				{"kubernetes", version.Get().GitVersion},
				{"etcd", etcdversion.Version},
				{"coredns", moduleVersion("github.com/coredns/coredns")},
				{"go", version.Get().GoVersion},
			}
			switch output {
			case "":
				for _, x := range v {
					fmt.Fprintf(cmd.OutOrStdout(), "%-11s %s\n", x.name, x.version)
				}
				return nil
			case "json":
				m := map[string]string{}
				for _, x := range v {
					m[x.name] = x.version
				}
				return json.NewEncoder(cmd.OutOrStdout()).Encode(m)
			default:
				return fmt.Errorf("--output %q is unknown: the only format is json", output)
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output format: json")
	return cmd
}

// moduleVersion reads the version of a dependency out of this binary.
func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "unknown"
}
