// Package reference tells which ConfigMaps and Secrets a pod refers to, and how.
//
// It is pure: it reads a PodSpec, and neither the API nor the objects. What a volume that is bound by a claim needs is not
// in the PodSpec, and so not in the result.
package reference
