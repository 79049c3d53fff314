from evermodel.cli.app import main

main()
