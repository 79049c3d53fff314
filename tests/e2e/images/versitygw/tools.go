//go:build tools

// Package versitygw pins the S3 store that the tests run; build.sh builds it.
package versitygw

import (
	_ "github.com/versity/versitygw/cmd/versitygw"
)
