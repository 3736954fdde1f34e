"""Recipes (`get_config`) and designs of studies (`get_study`); one recipe changes fields of another."""
