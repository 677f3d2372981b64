//go:build tools

// Package helm names the program that is built.
package helm

import _ "helm.sh/helm/v3/cmd/helm"
