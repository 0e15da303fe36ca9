"""Inputs that somebody wants to be read: each must end in a message, soon and in little memory."""
