// Package config is the CSI driver config.csi.orlop.io: inline ephemeral volumes that show ConfigMaps and Secrets and
// follow them while the pod runs, on any cluster.
//
// The driver reads with the ServiceAccount tokens of the pods alone, which the kubelet brings with every
// NodePublishVolume (CSIDriver.spec.tokenRequests): it has no rights of its own, and what a pod's ServiceAccount may not
// read is not shown to the pod. Volumes of pods of one ServiceAccount share one watch an object.
//
// A volume is a tmpfs, mounted read-only at the target path once its files are complete; the driver writes through a
// mount of the same file system that nobody else sees. What is published is recorded, tokens included, on a tmpfs of
// the driver's own, so that a driver that was killed goes on at once. Files stay as they are while the driver or the
// API server is away.
//
// A republish, every 60 to 90 s for each volume (requiresRepublish), brings the newest token and repairs what is
// damaged. It never fails: before Kubernetes v1.36 a kubelet may take the directory of a volume in use away after a final
// error, and any error has it call again and again. What is wrong is logged, told by an event on the pod where a
// recorder is given, and shown by the volume's condition.
//
// Every step that changes something has a label (see csi/host), by which a test fails it or ends the process there.
package config
