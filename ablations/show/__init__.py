"""A result for the eyes: tables, figures and the page, built from plan and records alone."""
