package httpapi

import (
	_ "embed"
	"net/http"
)

// openapi describes the API (OpenAPI 3.1). A test holds it to the routes and
// replays its examples.
//
//go:embed openapi.yaml
var openapi []byte

// describeAPI is GET /openapi.yaml.
func (s *Server) describeAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/yaml") // RFC 9512
	_, err := w.Write(openapi)
	return ignoreGone(err)
}
