"""Tests of jitaccess.catalog."""
