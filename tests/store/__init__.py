"""Tests of jitaccess.store."""
