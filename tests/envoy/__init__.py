"""The experiments of docs/envoy, with a real Envoy."""
