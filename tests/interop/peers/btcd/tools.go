//go:build tools

// Package btcd pins the Bitcoin node that the tests of our chain service run on.
package btcd

import (
	_ "github.com/btcsuite/btcd"
)
