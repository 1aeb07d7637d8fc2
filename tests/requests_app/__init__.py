"""Tests of requests_app."""
