// Package payload decides what files a configuration volume has: it turns ConfigMaps, Secrets and already resolved
// values (downward API fields, tokens) into paths, bytes, modes and owners, by the rules of Kubernetes' configMap,
// secret, downwardAPI and projected volumes.
//
// It is pure: it reads no API, no clock and no disk, and it never changes what it is given. Package writer puts the
// result on disk; package source brings the objects.
//
// Bytes of files are Content, which prints as [redacted] whatever the verb, so that neither an error nor a log line
// can hold a Secret's bytes.
package payload
