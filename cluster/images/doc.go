// Package images puts container images into a node's containerd without a registry, and lists what is there.
//
// An archive (an OCI image layout or what "docker save" writes, plain or compressed with gzip or zstd) is read
// once from its file and streamed into containerd's content store; the manifests that fit the node's platform
// are checked, registered in the kubelet's namespace under the names by which a pod's spec finds them, and
// unpacked into the snapshotter, so that the first pod pays for none of it. When [Import] returns, the kubelet
// sees the image.
//
// The sandbox image of the cluster is made here as well, from the pause program beside the orlop binary
// ([EnsurePause]).
//
// The package speaks to containerd over its socket alone: it starts no program, touches none of containerd's
// files and pulls nothing over the network.
package images
