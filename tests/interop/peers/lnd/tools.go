//go:build tools

// Package lnd pins the Lightning node that the interop tests talk to.
package lnd

import (
	_ "github.com/lightningnetwork/lnd/cmd/lncli"
	_ "github.com/lightningnetwork/lnd/cmd/lnd"
)
