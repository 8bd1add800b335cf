// Package deploy holds the manifests of Orlop's storage: installed by users on a cluster of their own, and embedded by
// the bundled one.
package deploy

import "embed"

// Base are the manifests common to every cluster: namespace, the driver of configuration volumes, the controllers' roles.
//
//go:embed base/*.yaml
var Base embed.FS

// Local are those of node-local volumes: roles, driver and storage class.
//
//go:embed local/*.yaml
var Local embed.FS
