package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cluster/images"
)

func newImagesCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images",
		Short: "Bring container images to the cluster, and list them",
	}
	cmd.AddCommand(newImagesImportCommand(o), newImagesListCommand(o), newImagesRemoveCommand(o))
	return cmd
}

func newImagesImportCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE...",
		Short: "Import images from archives",
		Long: `Import images from OCI archives, or archives written by 'docker save', plain or compressed.
Pods then run them without a registry (with imagePullPolicy IfNotPresent or Never). They stay until
'orlop images remove': the kubelet's clean-up, which frees a full disk of images, leaves them.`,
		Example: `  orlop images import mysql.tar`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := o.runningLayout(cmd.Context())
			if err != nil {
				return err
			}
			names, err := images.Import(cmd.Context(), l.ContainerdSocket(), args, func(line string) {
				fmt.Fprintln(cmd.ErrOrStderr(), line)
			})
			for _, n := range names {
				fmt.Fprintln(cmd.OutOrStdout(), n)
			}
			return err
		},
	}
}

func newImagesRemoveCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME...",
		Short:   "Remove images from the cluster",
		Example: `  orlop images remove mysql:8`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := o.runningLayout(cmd.Context())
			if err != nil {
				return err
			}
			return images.Remove(cmd.Context(), l.ContainerdSocket(), args)
		},
	}
}

func newImagesListCommand(o *options) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the images that pods can run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := o.runningLayout(cmd.Context())
			if err != nil {
				return err
			}
			all, err := images.List(cmd.Context(), l.ContainerdSocket())
			if err != nil {
				return err
			}
			switch output {
			case "json":
				return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
			case "":
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
				fmt.Fprintln(w, "NAME\tSIZE")
				for _, i := range all {
					fmt.Fprintf(w, "%s\t%.1f MB\n", i.Name, float64(i.SizeBytes)/1e6)
				}
				return w.Flush()
			default:
				return fmt.Errorf("--output %q is unknown: the only format is json", output)
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output format: json")
	return cmd
}
